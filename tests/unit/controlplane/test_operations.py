"""What is told of operations, where the oldest go, and which are found again."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from controlplane import model
from controlplane.cli import op
from controlplane.errors import InvalidInput
from controlplane.model import records
from controlplane.operations import archive, log, shown
from controlplane.site import nouns
from controlplane.store import Keys
from controlplane.store.memory import Memory, MemoryStore

pytestmark = pytest.mark.anyio
KEYS = Keys("lab")
S = 10**9
AT = 1_700_000_000 * S
STEP = records.OperationStep("specs of omsd", "succeeded", AT, AT + S // 4)


def record(id: str, created_s: int = 0, **more: Any) -> records.OperationRecord:
    at = AT + created_s * S
    return records.OperationRecord(id, "apply", "omsd", "running", "ann", "why", at, **more)


async def finished(store: MemoryStore, count: int, state: str = "succeeded") -> None:
    for n in range(count):
        await log.begin(store, KEYS, record(f"op-{n:03d}", n))
        await log.finish(store, KEYS, f"op-{n:03d}", state, AT + (n + 1) * S, steps=[STEP], outcome="so")


async def ids(store: MemoryStore) -> list[str]:
    return [key.rpartition("/")[2] for key in (await store.range(KEYS.operations)).entries]


# --- the archive --------------------------------------------------------------------------------------------


async def test_the_oldest_go_to_the_disk_and_are_found_there_as_they_were(tmp_path: Path) -> None:
    store = MemoryStore(Memory())
    await finished(store, 70)
    await log.begin(store, KEYS, record("op-running", -1000))
    one = archive.Archive(store, KEYS, tmp_path, kept_max=5)
    before = {each["id"]: each for each in shown.of(nouns.view_of(KEYS, await store.range(KEYS.root)))}
    assert await one.once() == 65
    assert await ids(store) == [*(f"op-{n:03d}" for n in range(65, 70)), "op-running"]
    found = list(op.of_archive(tmp_path / archive.FOLDER))
    assert [each["id"] for each in found] == [f"op-{n:03d}" for n in range(65)]
    assert all(before[each["id"]] == each for each in found), "told the same from either place"
    assert await one.once() == 0
    [path] = archive.files_of(tmp_path / archive.FOLDER)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_its_files_rotate_and_the_oldest_go(tmp_path: Path) -> None:
    store = MemoryStore(Memory())
    one = archive.Archive(store, KEYS, tmp_path, kept_max=0, bytes_max=2000, files_max=3)
    for at in range(40):
        await log.begin(store, KEYS, record(f"op-{at:03d}", at))
        await log.finish(store, KEYS, f"op-{at:03d}", "succeeded", AT + at * S)
        await one.once()
    kept = archive.files_of(tmp_path / archive.FOLDER)
    assert len(kept) == 3 and all(path.stat().st_size < 3000 for path in kept)
    found = [each["id"] for each in op.of_archive(tmp_path / archive.FOLDER)]
    assert found == [f"op-{n:03d}" for n in range(40 - len(found), 40)] and len(found) > 12


async def test_a_disk_that_takes_nothing_is_an_alarm_and_loses_nothing(tmp_path: Path) -> None:
    store = MemoryStore(Memory())
    await finished(store, 10)
    one = archive.Archive(store, KEYS, tmp_path, kept_max=2)
    (tmp_path / archive.FOLDER).write_text("in the way")
    await one.once()
    assert len(await ids(store)) == 10
    [alarm] = one.alarms
    assert alarm.id == "operations.unarchived" and archive.FOLDER in alarm.text
    (tmp_path / archive.FOLDER).unlink()
    assert await one.once() == 8 and one.alarms == ()


def test_a_line_that_was_torn_costs_that_line(tmp_path: Path) -> None:
    folder = tmp_path / archive.FOLDER
    folder.mkdir()
    good = model.encode(record("op-1", finished_ns=AT))
    rubbish = [b"", b"{}", b"[1]", b"null", b'{"id": "x', good[:-5], b"\xff\xfe", good.replace(b"17", b'"x')]
    (folder / "operations-1.jsonl").write_bytes(b"\n".join([*rubbish, good]) + b"\n")
    assert [each["id"] for each in op.of_archive(folder)] == ["op-1"]


async def test_after_a_torn_line_the_next_one_begins_anew(tmp_path: Path) -> None:
    folder = tmp_path / archive.FOLDER
    folder.mkdir(parents=True)
    (folder / "operations-00000000000000000001.jsonl").write_bytes(b'{"id": "to')
    store = MemoryStore(Memory())
    await finished(store, 1)
    await archive.Archive(store, KEYS, tmp_path, kept_max=0).once()
    assert [each["id"] for each in op.of_archive(folder)] == ["op-000"]


async def test_a_store_that_no_controller_looks_after_is_bounded_all_the_same() -> None:
    store = MemoryStore(Memory())
    await finished(store, 20)
    assert await log.trim(store, KEYS, kept_max=15) == 5
    assert log.KEPT_MAX < log.HELD_MAX


# --- what is told -------------------------------------------------------------------------------------------


async def test_one_that_runs_is_running_for_however_long_and_says_how_far_it_is() -> None:
    store = MemoryStore(Memory())
    await log.begin(store, KEYS, record("op-1"))
    await log.progress(store, KEYS, "op-1", [STEP])
    [row] = shown.of(nouns.view_of(KEYS, await store.range(KEYS.root)))
    assert (row["state"], row["finished_at"], row["took_ms"]) == ("running", None, None)
    assert [step["took_ms"] for step in row["steps"]] == [250.0]
    assert op.code_of(row) == 0 and op.ending(row) == "running"
    await log.finish(store, KEYS, "op-1", "failed", AT + S, outcome="the disk is full")
    await log.progress(store, KEYS, "op-1", [])
    [row] = shown.of(nouns.view_of(KEYS, await store.range(KEYS.root)))
    assert (row["state"], row["outcome"], row["took_ms"]) == ("failed", "the disk is full", 1000.0)
    assert len(row["steps"]) == 1, "what has ended stays as it ended"
    assert op.code_of(row) == 1 and "the disk is full" in op.text(row)


async def test_steps_and_outcomes_are_bounded() -> None:
    store = MemoryStore(Memory())
    await log.begin(store, KEYS, record("op-1"))
    many = [dataclasses.replace(STEP, name="x" * 9000, detail="y" * 9000)] * 500
    await log.finish(store, KEYS, "op-1", "failed", AT, outcome="z" * 9000, steps=many)
    found = await log.find(store, KEYS, "op-1")
    assert found is not None and len(found.steps) == records.STEPS_MAX
    assert len(model.encode(found)) < 256 * 1024


async def test_a_hand_over_that_nobody_asked_for_is_an_operation_of_the_system() -> None:
    store = MemoryStore(Memory())
    rows = [
        records.HistoryRow(1, None, "omsd-a", "first", "system", "", None, AT, AT + 1, AT + S),
        records.HistoryRow(2, "omsd-a", "omsd-b", "process_lost", "system", "it died", None, AT + 2 * S, 1),
        records.HistoryRow(
            3, "omsd-b", "omsd-a", "failover", "ann", "why", "fo-1", AT + 3 * S, AT + 4 * S, None
        ),
        records.HistoryRow(4, "omsd-a", "omsd-b", "process_lost", "system", "it died", None, AT + 9 * S),
    ]
    for row in rows:
        await store.put(KEYS.history_row("omsd", row.epoch), model.encode(row))
    await log.begin(store, KEYS, dataclasses.replace(record("fo-1", 3), kind="failover"))
    found = shown.of(nouns.view_of(KEYS, await store.range(KEYS.root)))
    assert [(each["id"], each["state"], each["actor"]) for each in found] == [
        ("hand-over-omsd-1", "succeeded", "system"),
        ("hand-over-omsd-2", "failed", "system"),
        ("fo-1", "running", "ann"),
        ("hand-over-omsd-4", "running", "system"),
    ]
    assert "epoch 3 followed" in found[1]["outcome"]
    assert [(step["name"], step["state"]) for step in found[2]["steps"]] == [
        ("omsd-a takes the lead", "succeeded"),
        ("omsd-a becomes active", "running"),
    ], "how far it is, before it has ended"


# --- which are asked for ------------------------------------------------------------------------------------


def test_filters_hold_together() -> None:
    rows = [
        shown.told(dataclasses.replace(record(f"op-{n}", n), kind=kind, state=state, actor=actor))
        for n, (kind, state, actor) in enumerate(
            itertools.product(("apply", "failover"), ("succeeded", "failed"), ("ann", "bob"))
        )
    ]
    wanted = op.filter_of("apply", "failed", "bob", None)
    assert [row["id"] for row in rows if op.passes(row, wanted)] == ["op-3"]
    since = op.filter_of(None, None, None, "2023-11-14T22:13:26")
    assert [row["id"] for row in rows if op.passes(row, since)] == ["op-6", "op-7"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90s", "2023-11-14T22:11:50.000Z"),
        ("2h", "2023-11-14T20:13:20.000Z"),
        ("7d", "2023-11-07T22:13:20.000Z"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31T09:30Z", "2026-01-31T09:30"),
        ("2026-01-31T09:30:15.250Z", "2026-01-31T09:30:15.250"),
    ],
)
def test_since_is_an_age_or_a_time(text: str, wanted: str) -> None:
    assert op.since_at(text, AT) == wanted


@pytest.mark.parametrize("text", ["", "h", "2x", "yesterday", "-2h", "2026-13-01", "9" * 40 + "s"])
def test_a_since_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="wanted 30s"):
        op.since_at(text, AT)


def test_a_state_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidInput, match="running, succeeded"):
        op.filter_of(None, "done", None, None)


def test_the_verb_knows_where_the_archive_is() -> None:
    assert op.FOLDER == archive.FOLDER
    assert f"{archive.PREFIX}*{archive.SUFFIX}" == op.PATTERN
    assert set(op.STATES) == log.FINISHED | {log.RUNNING}
    assert json.loads(json.dumps(shown.told(record("op-1"))))["finished_at"] is None
