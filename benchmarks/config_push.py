"""A change of configuration while a floor trades: from the store's commit to the last daemon's
acknowledgement.

    python benchmarks/config_push.py [--changes 200]

Ratios first. Each change is one transaction, as `hftctl config set` writes it, of a service with an instance
on each host. Beside it stands, from the same run, a bare watch of the store that sees the same commit. The
commit is taken to be when the first of two is read, the store's answer to the transaction or that watch's
word; for a bound that leaves nothing out the times from sending the transaction are there too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from controlplane import model
from controlplane import store as stores
from controlplane.floor import folders
from controlplane.model import ServiceSpec
from controlplane.model.config import FIRST_REVISION, ConfigRevision, CurrentConfig
from controlplane.model.observed import HostRecord
from controlplane.store import Delete, Keys, Put, Store
from tests.support import floors

KEYS = Keys("lab")
SERVICE, SETTING = "omsd", "resend_s"
INSTANCES = frozenset({"omsd-alpha-1", "omsd-beta-1"})
ROWS_MAX = 100
"""As `config` keeps them."""
APART_S = 0.25
"""Between two changes: an operator's, not a flood's; more than what gathers host records."""
SOON_S = 30.0
GOAL_MS = 50.0


@dataclass
class Pushed:
    """ns of CLOCK_REALTIME, which all on this machine share; by revision."""

    sent: dict[int, int] = field(default_factory=dict)
    answered: dict[int, int] = field(default_factory=dict)
    watched: dict[int, int] = field(default_factory=dict)
    """A bare watch has seen it."""
    agents: dict[int, int] = field(default_factory=dict)
    """The last agent has heard its daemon say that it is in force."""
    records: dict[int, int] = field(default_factory=dict)
    """The last host record in the store says so, as a watch of them sees it."""


async def watch_current(client: Store, pushed: Pushed) -> None:
    key = KEYS.config_current(SERVICE)
    async for snapshot in client.watch(KEYS.config):
        now_ns = time.time_ns()
        entry = snapshot.entries.get(key)
        if entry is not None:
            pushed.watched.setdefault(model.decode(CurrentConfig, entry.value).revision, now_ns)


async def watch_hosts(client: Store, pushed: Pushed, seen: asyncio.Event) -> None:
    in_force: dict[str, int] = {}
    async for snapshot in client.watch(KEYS.hosts):
        now_ns = time.time_ns()
        for entry in snapshot.entries.values():
            for each in model.decode(HostRecord, entry.value).instances:
                in_force[each.id] = each.config_revision
        pushed.records.setdefault(min(in_force.get(name, 0) for name in INSTANCES), now_ns)
        seen.set()


async def push(client: Store, pushed: Pushed, seen: asyncio.Event, changes: int) -> None:
    entry = await client.get(KEYS.spec(SERVICE))
    assert entry is not None
    settings: Mapping[str, Any] = model.decode(ServiceSpec, entry.value).settings
    for revision in range(FIRST_REVISION + 1, FIRST_REVISION + 1 + changes):
        document = {**settings, SETTING: 1.0 + revision % 2}
        row = ConfigRevision(SERVICE, revision, document, "set", "benchmark", "measuring", time.time_ns())
        operations: list[Put | Delete] = [
            Put(KEYS.config_revision(SERVICE, revision), model.encode(row)),
            Put(KEYS.config_current(SERVICE), model.encode(CurrentConfig(SERVICE, revision, "n"))),
        ]
        if revision > ROWS_MAX:
            operations.append(Delete(KEYS.config_revision(SERVICE, revision - ROWS_MAX)))
        pushed.sent[revision] = time.time_ns()
        await client.txn([], operations)
        pushed.answered[revision] = time.time_ns()
        async with asyncio.timeout(SOON_S):
            while revision not in pushed.records or revision not in pushed.watched:
                seen.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(seen.wait(), 0.1)
        await asyncio.sleep(APART_S)


def heard(site_dir: Path, pushed: Pushed) -> None:
    """From the agents' events, which are stamped when a daemon's word comes."""
    found: dict[int, list[int]] = {}
    for path in (site_dir / "hosts").glob("*/events.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "settings.changed" and event["fields"].get("instance") in INSTANCES:
                found.setdefault(int(event["fields"]["revision"]), []).append(event["at_ns"])
    pushed.agents |= {revision: max(at) for revision, at in found.items() if len(at) == len(INSTANCES)}


def shares(since: Mapping[int, int], until: Mapping[int, int]) -> tuple[float, float, float]:
    """p50, p99 and max in ms."""
    took = sorted((until[each] - since[each]) / 1e6 for each in since if each in until)
    return statistics.median(took), took[min(len(took) - 1, int(len(took) * 0.99))], took[-1]


async def measure(floor: floors.Floor, changes: int) -> Pushed:
    url = folders.Folders(floor.site_dir).store_url()
    assert url is not None
    pushed, seen = Pushed(), asyncio.Event()
    writer, bare, observer = (stores.connect(url) for _ in range(3))
    try:
        watches = [
            asyncio.create_task(watch_current(bare, pushed)),
            asyncio.create_task(watch_hosts(observer, pushed, seen)),
        ]
        await asyncio.sleep(1)
        await push(writer, pushed, seen, changes)
        for each in watches:
            each.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
    finally:
        for client in (writer, bare, observer):
            await client.close()
    heard(floor.site_dir, pushed)
    return pushed


def show(pushed: Pushed) -> bool:
    stages = {"the last agent": pushed.agents, "the last host record": pushed.records}
    for name, until in stages.items():
        assert len(until.keys() & pushed.sent.keys()) == len(pushed.sent), f"{name}: some were not seen"
    committed = {each: min(at_ns, pushed.watched[each]) for each, at_ns in pushed.answered.items()}
    bare = shares(pushed.sent, pushed.watched)
    print(f"{len(pushed.sent)} changes of {SERVICE}.{SETTING}, {len(INSTANCES)} daemons on 2 hosts")
    for name, until in stages.items():
        p50, p99, _ = (ours / base for ours, base in zip(shares(pushed.sent, until), bare, strict=True))
        print(f"  {name} / a bare watch, from sending: {p50:.1f} at p50, {p99:.1f} at p99")
    print("  from sending, a bare watch: p50 {:.1f} ms, p99 {:.1f}, max {:.1f}".format(*bare))
    for name, until in stages.items():
        for words, since in (("sending", pushed.sent), ("the commit", committed)):
            p50, p99, most = shares(since, until)
            print(f"  from {words}, {name}: p50 {p50:.1f} ms, p99 {p99:.1f}, max {most:.1f}")
    reached = {name: shares(committed, until)[1] < GOAL_MS for name, until in stages.items()}
    for name, yes in reached.items():
        print(f"  from the commit under {GOAL_MS:g} ms at p99, {name}: {'yes' if yes else 'NO'}")
    return reached["the last agent"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--changes", type=int, default=200)
    given = parser.parse_args()
    with floors.floor() as floor:
        floors.wait_for("it trades", floor.trades)
        pushed = asyncio.run(measure(floor, given.changes))
    return 0 if show(pushed) else 1


if __name__ == "__main__":
    sys.exit(main())
