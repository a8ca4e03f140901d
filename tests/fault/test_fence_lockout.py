"""Fault: the receivers of a group hold a fence far above what the store has given out, as an older release
would have written it for one forged FENCE. The group is locked out, which is seen; `hftctl fence reset` sets
the fences to the store's token, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import floors

pytestmark = pytest.mark.timeout(600)
REASON = "a FENCE was forged"
HIGH = 900_000


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        one.trades()
        yield one


def files(floor: floors.Floor) -> dict[str, Path]:
    """By instance, of every receiver that holds a fence of omsd."""
    found = {path.parent.name: path for path in (floor.site_dir / "data").glob("*/fences.json")}
    found["simd-alpha-1"] = floor.site_dir / "simd" / "fences.json"
    return {name: path for name, path in found.items() if "omsd" in json.loads(path.read_bytes())}


def fence_of(path: Path, group: str = "omsd") -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())[group])


def lock_out(floor: floors.Floor, group: str, *instances: str) -> None:
    """Write the file as an older release would have, and start its receiver again."""
    pids = floor.pids()
    for instance in instances:
        path = files(floor)[instance]
        rows = json.loads(path.read_bytes())
        rows[group] |= {"epoch": HIGH, "claimant": {**rows[group]["claimant"], "pid": 4711, "start_time": 1}}
        os.kill(pids[instance], signal.SIGKILL)
        path.with_suffix(".new").write_text(json.dumps(rows))
        path.with_suffix(".new").rename(path)
    for instance in instances:
        floors.wait_for("it is back", lambda at=instance: floor.instance(at)["pid"] not in (None, pids[at]))  # type: ignore[misc]
        assert fence_of(files(floor)[instance], group)["epoch"] == HIGH


def alarms(floor: floors.Floor, id: str) -> list[dict[str, Any]]:
    return [alarm for alarm in floor.status()["alarms"] if alarm["id"] == id]


def stopped(floor: floors.Floor) -> bool:
    before = floor.status()["flow"]["orders"]
    with contextlib.suppress(floors.NotInTime):
        floors.wait_for("orders", lambda: floor.status()["flow"]["orders"] > before, seconds=2)
        return False
    return True


def test_every_receiver_holds_the_stores_token_on_a_healthy_floor(floor: floors.Floor) -> None:
    assert set(files(floor)) == {
        "simd-alpha-1", "riskd-alpha-1", "execd-beta-1", "positiond-beta-1", "auditd-beta-1",
    }  # fmt: skip
    found = floor.json("fence", "show", "omsd")
    assert {row["instance"] for row in found["receivers"]} == set(files(floor))
    assert {row["stands"] for row in found["receivers"]} == {"as the store"}
    assert floor.run("fence", "show", "omsd").returncode == 0
    assert not alarms(floor, "fence_unconfirmed") and not alarms(floor, "fence_ahead")


def test_a_locked_out_group_is_seen_and_reset_and_trades_again(floor: floors.Floor) -> None:
    locked = list(files(floor))
    lock_out(floor, "omsd", *locked)
    floors.wait_for("no order leaves", lambda: stopped(floor))
    floors.wait_for("the alarms", lambda: len(alarms(floor, "fence_ahead")) == len(locked))
    assert "hftctl fence reset omsd" in alarms(floor, "fence_ahead")[0]["text"]
    shown = floor.run("fence", "show", "omsd")
    assert shown.returncode == 1 and f"/{HIGH}" in shown.stdout and "above" in shown.stdout
    moved = floor.run("failover", "omsd", "--reason", "does not heal it", "--timeout", "3")
    assert stopped(floor), moved.stdout + moved.stderr

    epoch = floor.service("omsd")["epoch"]
    told = floor.json("fence", "reset", "omsd", "--reason", REASON)
    assert told["outcome"] == "succeeded", told
    assert {row["instance"] for row in told["receivers"] if row["outcome"] == "reset"} == set(locked)
    assert floor.trades()
    floors.wait_for("healthy", floor.healthy)
    floors.wait_for("positions equal to the venue's", floor.settled)
    assert floor.service("omsd")["epoch"] == epoch, "no lead had to change"
    assert {fence_of(path)["epoch"] for path in files(floor).values()} == {epoch}
    floors.wait_for("no alarm", lambda: not alarms(floor, "fence_ahead"))

    (row,) = [row for row in floor.json("history", "omsd") if row["cause"].startswith("fence_reset")]
    assert (row["cause"], row["reason"], row["operation"]) == (
        "fence_reset succeeded", REASON, told["operation"],
    )  # fmt: skip
    assert row["actor"] and REASON in floor.run("history", "omsd").stdout
    (operation,) = [op for op in floor.status()["operations"] if op["kind"] == "fence-reset"]
    assert (operation["id"], operation["state"], operation["actor"]) == (
        told["operation"], "succeeded", row["actor"],
    )  # fmt: skip
    said = [event for event in floor.json("events", "-n", "500") if event["kind"] == "fence.reset"]
    assert [event["fields"]["reason"] for event in said] == [REASON]


def test_a_reset_of_what_is_right_changes_nothing_and_says_so(floor: floors.Floor) -> None:
    kept = {name: path.read_bytes() for name, path in files(floor).items()}
    done = floor.run("fence", "reset", "omsd", "--reason", "to be sure")
    assert done.returncode == 0 and "nothing had to be changed" in done.stdout
    assert {name: path.read_bytes() for name, path in files(floor).items()} == kept


def test_a_failover_after_it_works(floor: floors.Floor) -> None:
    done = floors.wait_for(
        "a failover",
        lambda: floor.json("failover", "omsd", "--reason", "after a reset")["outcome"] == "succeeded",
        pause_s=0.5,
    )
    assert done and floor.trades()
    floors.wait_for("healthy", floor.healthy)


def test_the_gateways_own_group_is_reset_at_the_venue(floor: floors.Floor) -> None:
    lock_out(floor, "execd", "simd-alpha-1")
    floors.wait_for("no order leaves", lambda: stopped(floor))
    done = floor.run("fence", "reset", "execd", "--reason", REASON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert floor.trades()
    floors.wait_for("healthy", floor.healthy)


def test_a_stopped_receivers_file_is_set(floor: floors.Floor) -> None:
    """positiond cannot start: it waits for its next try, and its agent sets its file."""
    path, pid = files(floor)["positiond-beta-1"], floor.pids()["positiond-beta-1"]
    log, aside = path.with_name("executions.log"), path.with_name("executions.aside")
    rows = json.loads(path.read_bytes())
    rows["omsd"]["epoch"] = HIGH
    log.rename(aside)
    log.mkdir()  # a folder in place of its log
    os.kill(pid, signal.SIGKILL)
    path.write_text(json.dumps(rows))

    def set_while_stopped() -> bool:
        told = floor.json("fence", "reset", "omsd", "--reason", REASON)["receivers"]
        (row,) = [each for each in told if each["instance"] == "positiond-beta-1"]
        return row["outcome"] == "reset" and not row["running"]

    try:
        # Its starts fail one after another; on a machine that is busy each takes long, its waits come later.
        floors.wait_for("its file is set", set_while_stopped, seconds=240)
        assert fence_of(path)["epoch"] < HIGH
    finally:
        log.rmdir()
        aside.rename(log)
    floors.wait_for("healthy", floor.healthy)
    floors.wait_for("positions equal to the venue's", floor.settled)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("omsd",), 2, "--reason is missing"),
        (("nobody", "--reason", "x"), 2, "nobody"),
        (("simd", "--reason", "x"), 1, "has no epoch"),
    ],
)
def test_what_cannot_be_reset_is_refused_in_one_line(
    floor: floors.Floor, words: tuple[str, ...], code: int, said: str
) -> None:
    done = floor.run("fence", "reset", *words)
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == code and len(lines) == 1 and said in lines[0], (done, lines)


def test_nothing_is_reset_while_the_store_cannot_be_read(floor: floors.Floor) -> None:
    kept = {name: path.read_bytes() for name, path in files(floor).items()}
    store = floor.store_pid()
    os.kill(store, signal.SIGSTOP)
    try:
        for verb in (("reset", "omsd", "--reason", REASON), ("show", "omsd")):
            done = floor.run("fence", *verb)
            assert done.returncode == 3 and done.stdout == "", done
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    finally:
        os.kill(store, signal.SIGCONT)
    assert {name: path.read_bytes() for name, path in files(floor).items()} == kept
    floors.wait_for("healthy", floor.healthy)
    assert floor.trades()


def test_a_new_store_has_a_new_incarnation_and_its_leaders_are_let_in(floor: floors.Floor) -> None:
    """Last in this file: the store is lost while the floor is down. The receivers hold fences of the old
    incarnation, and take the new one from their agents' word.
    """
    before = {name: fence_of(path)["incarnation"] for name, path in files(floor).items()}
    floor.run("down")
    for folder in [*floor.site_dir.glob("etcd-*"), *floor.site_dir.glob("consul")]:
        shutil.rmtree(folder)
    floor.up()
    assert floor.trades()

    def risen() -> bool:
        now = {name: fence_of(path)["incarnation"] for name, path in files(floor).items()}
        return set(now) == set(before) and all(now[name] > before[name] for name in now)

    floors.wait_for("every fence is of the new incarnation", risen)
    found = floor.json("fence", "show", "omsd")
    assert {row["stands"] for row in found["receivers"]} == {"as the store"}
    assert not alarms(floor, "fence_ahead")
