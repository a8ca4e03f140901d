"""`hftctl op` on a real floor: what was changed, how far it is, and where the oldest are."""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import Any

import pytest

from controlplane import store
from controlplane.floor import folders as site_folders
from controlplane.model import records
from controlplane.operations import archive, log
from controlplane.store import Keys
from tests.support import floors
from tests.support.floors import Floor, wait_for

pytestmark = pytest.mark.timeout(300)
KEYS = Keys("lab")
DESIGN = {"id", "kind", "subject", "state", "actor", "reason", "created_at", "finished_at"}
OLD = 60


def in_store(floor: Floor, work: Any) -> Any:
    """What `work` gives with a client of the floor's store."""

    async def run() -> Any:
        url = site_folders.Folders(floor.site_dir).store_url()
        assert url is not None
        client = store.connect(url)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_every_change_is_an_operation_that_can_be_listed_shown_watched_and_found_when_it_is_old() -> None:
    with floors.floor() as floor:
        [applied] = floor.json("op", "list", "--kind", "apply")
        assert set(applied) == DESIGN
        assert (applied["state"], applied["reason"]) == ("succeeded", "hftctl up")
        shown = floor.json("op", "show", applied["id"])
        assert shown["took_ms"] > 0 and [step["state"] for step in shown["steps"]] == ["succeeded"]

        done = floor.json("failover", "omsd", "--reason", "a test of operations")
        operation = done["operation"]
        shown = wait_for("its steps", lambda: two_steps(floor.json("op", "show", operation)))
        assert shown["state"] == "succeeded" and shown["reason"] == "a test of operations"
        assert [step["name"] for step in shown["steps"]] == [
            f"{done['to']} takes the lead",
            f"{done['to']} becomes active",
        ]
        watched = floor.run("op", "watch", operation)
        assert watched.returncode == 0 and "becomes active: succeeded in" in watched.stdout
        assert floor.run("failover", "riskd", "--reason", "none can").returncode == 1
        found = floor.json("op", "list", "--kind", "failover", "--state", "succeeded", "--since", "1h")
        assert [each["id"] for each in found] == [operation]
        assert floor.json("op", "list", "--actor", "nobody-of-that-name") == []
        system = floor.json("op", "list", "--actor", "system")
        assert {each["kind"] for each in system} == {"hand-over"}, "and what nobody asked for"

        for words in (["list", "--state", "done"], ["list", "--since", "soon"], ["show", "nosuch"]):
            refused = floor.run("op", *words)
            assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1, refused.stderr

        # One that runs is running, for as long as nobody knows how it ended, and so says the watch.
        running = records.OperationRecord("long-1", "drill", "omsd", "", "ann", "why", time.time_ns())
        in_store(floor, lambda client: log.begin(client, KEYS, running))
        with subprocess.Popen(
            [*floors.HFTCTL, "op", "watch", "long-1"],
            env=floor.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as watch:
            step = records.OperationStep("the first", "failed", time.time_ns(), time.time_ns(), "a disk")
            in_store(floor, lambda client: log.progress(client, KEYS, "long-1", [step]))
            assert watch.stdout is not None
            assert "the first: failed" in watch.stdout.readline()
            assert floor.json("op", "show", "long-1")["state"] == "running"
            in_store(
                floor,
                lambda client: log.finish(client, KEYS, "long-1", "failed", time.time_ns(), outcome="a disk"),
            )
            assert "failed at" in watch.stdout.read()
        assert watch.returncode == 1

        # The oldest leave the store for the elected controller's disk.
        in_store(floor, fill)
        wait_for(
            "the oldest to be archived",
            lambda: in_store(floor, lambda client: log.surplus(client, KEYS, log.KEPT_MAX)) == [],
        )
        everything = floor.json("op", "list", "-n", "1000", "--archived")
        assert len({each["id"] for each in everything}) == len(everything) >= log.KEPT_MAX + OLD
        assert len(floor.json("op", "list", "-n", "1000")) < len(everything)
        assert floor.json("op", "show", "old-000")["outcome"] == "so it was"
        assert archive.files_of(floor.site_dir / archive.FOLDER)

        assert floor.run("down").returncode == 0
        assert floor.run("op", "list").returncode == 3
        kept = floor.json("op", "list", "-n", "1000", "--archived", "--kind", "drill")
        assert [each["id"] for each in kept[:3]] == ["old-000", "old-001", "old-002"]


def two_steps(shown: dict[str, Any]) -> dict[str, Any] | None:
    return shown if len(shown["steps"]) == 2 else None


async def fill(client: store.Store) -> None:
    """More than are kept, of long ago."""
    at = 1_700_000_000 * 10**9
    for n in range(log.KEPT_MAX + OLD):
        record = records.OperationRecord(f"old-{n:03d}", "drill", "omsd", "", "ann", "why", at + n * 10**9)
        await log.begin(client, KEYS, record)
        await log.finish(client, KEYS, record.id, "succeeded", at + n * 10**9, outcome="so it was")
