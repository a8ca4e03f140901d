"""A reset sets a fence to what the store holds, and never below a token that somebody was let in with."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents import host_fences
from agents.paths import Paths
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane import model
from controlplane.errors import Refused, Retryable, Unavailable
from controlplane.model import Process, Slot, Token, records
from controlplane.operations import fence_reset
from controlplane.operations import log as operation_log
from controlplane.operations.fence_reset import FenceResetRequest, FenceResets, Held
from controlplane.site.view import SiteView
from controlplane.store import Keys
from controlplane.store.memory import Memory, MemoryStore
from hftd.shm import kept_fences
from hftd.shm.kept_fences import NOBODY, Row
from hftd.wire import control

KEYS = Keys("lab")
BOOT = "11111111-2222-3333-4444-555555555555"
LEADER = Process("omsd-alpha-1", BOOT, 100, 1)
NEXT = Process("omsd-beta-1", BOOT, 200, 2)
FORGER = Process("omsd-alpha-1", BOOT, 666, 3)
OPERATION = "fence-reset-omsd-1"


class Receiver:
    """A running receiver behind the bus: real rows, the rule of storage/fences.py in a line."""

    def __init__(self, row: Row | None) -> None:
        self.row, self.admitted, self.asked = row, 4, 0
        self.on_look: Callable[[], Coroutine[Any, Any, None]] | None = None


class Host:
    """Stands for instances.Instances."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths("lab", "alpha", folder, folder / "run")
        self.instances: dict[str, Instance] = {}
        self.receivers: dict[str, Receiver] = {}
        self.silent: set[str] = set()

    def add(self, name: str, row: Row | None, state: State = State.RUNNING) -> Receiver:
        self.instances[name] = Instance(Slot(name, name.split("-")[0], "alpha"), state=state)
        self.receivers[name] = Receiver(row)
        path = self.file(name)
        path.parent.mkdir(parents=True)
        kept_fences.write(path, {} if row is None else {"omsd": row})
        return self.receivers[name]

    def file(self, name: str) -> Path:
        return self.paths.data(name) / "fences.json"

    def __iter__(self) -> Iterator[Instance]:
        return iter(list(self.instances.values()))

    async def ask(self, name: str, what: str, args: dict[str, Any], timeout_s: float) -> control.Answer:
        if name in self.silent:
            raise Retryable(f"instance {name}: no answer")
        one = self.receivers[name]
        rows = []
        if one.row is not None:
            told = {"group": "omsd", "incarnation": one.row.incarnation, "epoch": one.row.epoch}
            rows = [{**told, "claimant": dataclasses.asdict(one.row.claimant), "admitted": one.admitted}]
        if one.on_look is not None:
            await one.on_look()
        return control.Answer(1, 0, 0, name, None, 1, True, rows)

    async def reset_fence(
        self, name: str, store: Token, claimant: Process, admitted: int, timeout_s: float
    ) -> control.Answer:
        one = self.receivers[name]
        one.asked += 1
        if one.admitted != admitted:
            return control.Answer(1, 0, 0, name, None, 2, False, "fenced meanwhile")
        one.row = Row(store.incarnation, store.epoch, claimant)
        return control.Answer(1, 0, 0, name, None, 2, True, "")


async def holds(store: MemoryStore, epoch: int, holder: Process | None, incarnation: int = 1) -> None:
    await store.put(KEYS.epoch("omsd"), model.encode(records.EpochRecord(incarnation, epoch)))
    leader = records.LeaderRecord(holder, incarnation, epoch, "omsd-alpha-1", "nonce")
    await store.put(KEYS.leader("omsd"), model.encode(leader))


async def begun(store: MemoryStore) -> None:
    record = records.OperationRecord(OPERATION, "fence-reset", "omsd", "running", "ann", "why", 1)
    await operation_log.begin(store, KEYS, record)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


Reset = Callable[[Host, MemoryStore], Coroutine[Any, Any, list[dict[str, Any]]]]


def reset(host: Host, *, epoch: int = 5, holder: Process | None = LEADER, before: Any = None) -> Any:
    async def run() -> list[dict[str, Any]]:
        store = MemoryStore(Memory())
        await holds(store, epoch, holder)
        await begun(store)
        if before is not None:
            before(store)
        return await host_fences.HostFences("alpha", host.paths, host, store, KEYS).reset("omsd", OPERATION)

    return asyncio.run(run())


def test_what_is_above_the_store_or_anothers_is_set_and_the_rest_is_left(host: Host) -> None:
    above, other = (
        host.add("riskd-alpha-1", Row(1, 900, FORGER)),
        host.add("execd-alpha-1", Row(1, 5, FORGER)),
    )
    same, below = host.add("auditd-alpha-1", Row(1, 5, LEADER)), host.add("simd-alpha-1", Row(1, 4, NEXT))
    nothing = host.add("positiond-alpha-1", None)
    rows = {row["instance"]: row["outcome"] for row in reset(host)}
    assert rows == {
        "riskd-alpha-1": "reset",
        "execd-alpha-1": "reset",
        "auditd-alpha-1": "kept",
        "simd-alpha-1": "kept",
    }
    assert above.row == other.row == Row(1, 5, LEADER)
    assert (same.asked, below.asked, nothing.asked) == (0, 0, 0)


def test_the_store_is_read_after_the_receivers_were_looked_at(host: Host) -> None:
    """A failover between the two: what looked forged is the new leader's, and stays."""
    one = host.add("execd-alpha-1", Row(1, 6, NEXT))

    def before(store: MemoryStore) -> None:
        one.on_look = lambda: holds(store, 6, NEXT)

    (row,) = reset(host, before=before)
    assert (row["outcome"], row["stands"], one.row) == ("kept", "as the store", Row(1, 6, NEXT))


def test_a_receiver_that_has_let_somebody_in_since_refuses_and_that_is_said(host: Host) -> None:
    one = host.add("execd-alpha-1", Row(1, 6, NEXT))

    async def admit() -> None:
        one.admitted += 1

    one.on_look = admit
    (row,) = reset(host)
    assert (row["outcome"], row["reason"]) == ("failed", "fenced meanwhile")


def test_an_epoch_that_nobody_holds_is_closed(host: Host) -> None:
    one = host.add("execd-alpha-1", Row(1, 900, FORGER))
    assert reset(host, holder=None)[0]["outcome"] == "reset" and one.row == Row(1, 5, NOBODY)


@pytest.mark.parametrize("state", [State.STOPPED, State.BACKOFF])
def test_of_a_stopped_receiver_the_file_is_set_and_other_groups_stay(host: Host, state: State) -> None:
    host.add("riskd-alpha-1", Row(1, 900, FORGER), state)
    path = host.file("riskd-alpha-1")
    kept_fences.write(path, {"omsd": Row(1, 900, FORGER), "execd": Row(1, 70, NEXT)})
    (row,) = reset(host)
    assert (row["outcome"], row["running"]) == ("reset", False)
    assert kept_fences.read(path) == {"omsd": Row(1, 5, LEADER), "execd": Row(1, 70, NEXT)}


@pytest.mark.parametrize(("before", "then"), [(State.BACKOFF, State.RUNNING), (State.RUNNING, State.BACKOFF)])
def test_one_that_starts_or_ends_between_look_and_reset_is_left(
    host: Host, before: State, then: State
) -> None:
    """What it has admitted in between is not known."""
    one, row = host.add("execd-alpha-1", Row(1, 900, FORGER), before), Row(1, 900, FORGER)
    other = host.add("riskd-alpha-1", None)

    async def change() -> None:
        host.instances["execd-alpha-1"].state = then

    one.on_look = other.on_look = change
    (said,) = reset(host)
    assert said["outcome"] == "failed" and one.row == row
    assert kept_fences.read(host.file("execd-alpha-1"))["omsd"] == row


def test_one_that_does_not_answer_or_is_damaged_fails_by_name_and_the_others_are_set(host: Host) -> None:
    good = host.add("execd-alpha-1", Row(1, 900, FORGER))
    host.add("riskd-alpha-1", Row(1, 900, FORGER))
    host.silent.add("riskd-alpha-1")
    host.add("auditd-alpha-1", None, State.STOPPED)
    host.file("auditd-alpha-1").write_text("{")
    rows = {row["instance"]: row for row in reset(host)}
    assert rows["execd-alpha-1"]["outcome"] == "reset" and good.row == Row(1, 5, LEADER)
    assert rows["riskd-alpha-1"]["outcome"] == rows["auditd-alpha-1"]["outcome"] == "failed"
    assert "no answer" in rows["riskd-alpha-1"]["reason"]
    assert "does not decode" in rows["auditd-alpha-1"]["reason"]


def test_without_an_operation_under_way_nothing_is_set(host: Host) -> None:
    one = host.add("execd-alpha-1", Row(1, 900, FORGER))

    async def run() -> None:
        store = MemoryStore(Memory())
        await holds(store, 5, LEADER)
        here = host_fences.HostFences("alpha", host.paths, host, store, KEYS)
        with pytest.raises(Refused, match="under way"):
            await here.reset("omsd", OPERATION)
        await begun(store)
        await operation_log.finish(store, KEYS, OPERATION, "succeeded", 2)
        with pytest.raises(Refused, match="under way"):
            await here.reset("omsd", OPERATION)

    asyncio.run(run())
    assert one.asked == 0


def test_a_store_that_cannot_be_read_changes_nothing(host: Host) -> None:
    one = host.add("execd-alpha-1", Row(1, 900, FORGER))

    def before(store: MemoryStore) -> None:
        async def cut() -> None:
            store.cut()

        one.on_look = cut

    with pytest.raises(Unavailable):
        reset(host, before=before)
    assert one.asked == 0


@pytest.mark.parametrize(
    ("epoch", "said"),
    [
        (None, "has never led"),
        (b"{", "do not decode"),
        (model.encode(records.EpochRecord(1, 1 << 62)), "do not decode"),
    ],
)
def test_a_store_without_a_token_of_the_group_is_refused_by_name(epoch: bytes | None, said: str) -> None:
    async def run() -> None:
        store = MemoryStore(Memory())
        await holds(store, 5, LEADER)
        if epoch is None:
            await store.delete(KEYS.epoch("omsd"))
        else:
            await store.put(KEYS.epoch("omsd"), epoch)
        with pytest.raises(Refused, match=said):
            await fence_reset.held(store, KEYS, "omsd")

    asyncio.run(run())


def test_a_leader_record_of_another_epoch_names_nobody() -> None:
    async def run() -> Held:
        store = MemoryStore(Memory())
        await holds(store, 5, LEADER)
        await store.put(KEYS.epoch("omsd"), model.encode(records.EpochRecord(1, 6)))
        return await fence_reset.held(store, KEYS, "omsd")

    assert asyncio.run(run()) == Held(Token(1, "omsd", 6), None)


# --- the whole site -----------------------------------------------------------------------------------------


class Follower:
    def __init__(self, view: Any) -> None:
        self.view = view


def site(mode: model.Mode = model.Mode.ACTIVE_STANDBY) -> Any:
    return SiteView("lab", specs={"omsd": model.ServiceSpec("omsd", "omsd", mode, ("alpha", "beta"))})


def run_site(reset_on: Any, view: Any = None, timeout_s: float = 5.0) -> tuple[dict[str, Any], Any]:
    async def run() -> tuple[dict[str, Any], Any]:
        store = MemoryStore(Memory())
        await holds(store, 5, LEADER)
        resets = FenceResets(store, KEYS, Follower(view or site()), reset_on)  # type: ignore[arg-type]
        done = await resets.run(FenceResetRequest("why", timeout_s, "omsd", "ann"))
        kept = done["operation"] and await operation_log.find(store, KEYS, done["operation"])
        return done, kept

    return asyncio.run(run())


def test_a_reset_is_an_operation_with_its_actor_and_reason() -> None:
    async def reset_on(host: str, service: str, operation: str) -> list[dict[str, Any]]:
        return [{"instance": f"execd-{host}-1", "host": host, "outcome": "reset", "reason": ""}]

    done, kept = run_site(reset_on)
    assert done["outcome"] == "succeeded" and [row["host"] for row in done["receivers"]] == ["alpha", "beta"]
    assert done["store"] == {"incarnation": 1, "epoch": 5, "holder": "omsd-alpha-1"}
    assert (kept.kind, kept.subject, kept.state, kept.actor, kept.reason) == (
        "fence-reset",
        "omsd",
        "succeeded",
        "ann",
        "why",
    )


def test_a_host_that_cannot_be_asked_makes_it_failed_by_name() -> None:
    async def reset_on(host: str, service: str, operation: str) -> list[dict[str, Any]]:
        if host == "beta":
            raise Retryable("host beta: its agent does not answer")
        return []

    done, kept = run_site(reset_on)
    assert done["outcome"] == kept.state == "failed" and "host beta" in done["reason"]


def test_one_that_is_not_done_in_time_is_unknown() -> None:
    async def reset_on(host: str, service: str, operation: str) -> list[dict[str, Any]]:
        await asyncio.sleep(60)
        return []

    done, kept = run_site(reset_on, timeout_s=0.05)
    assert done["outcome"] == kept.state == "unknown" and done["operation"] in done["reason"]


def test_a_group_without_an_epoch_is_refused_before_anything_is_written() -> None:
    done, kept = run_site(None, site(model.Mode.SINGLETON))
    assert (done["outcome"], done["operation"], kept) == ("refused", None, None)


def test_the_history_shows_a_reset_behind_the_epoch_that_it_met() -> None:
    def row(epoch: int, started_ns: int) -> records.HistoryRow:
        return records.HistoryRow(epoch, None, "omsd-alpha-1", "first", "system", "", None, started_ns)

    done = records.OperationRecord("fence-reset-omsd-1", "fence-reset", "omsd", "succeeded", "ann", "why", 25)
    other = dataclasses.replace(done, id="x", subject="execd")
    view = dataclasses.replace(
        site(), history={"omsd": (row(1, 10), row(2, 20), row(3, 30))}, operations=(done, other)
    )
    shown = fence_reset.history(view, "omsd")
    assert [(each.epoch, each.cause) for each in shown] == [
        (1, "first"), (2, "first"), (2, "fence_reset succeeded"), (3, "first"),
    ]  # fmt: skip
    assert (shown[2].actor, shown[2].reason, shown[2].operation) == ("ann", "why", done.id)
