"""What the keepers do when something dies, freezes, is cut off or races: real processes and words, the store
in memory.

Each test asserts safety first (never two words that lead at one instant; the old word zero before the new
leader is named), recovery after it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agents.keeper import protocol
from controlplane import model
from controlplane.errors import Unavailable
from controlplane.model import Phase, records
from controlplane.store import Committed, Compare, Delete, Lost, Put
from controlplane.store.memory import MemoryStore
from hftd.shm import fence_file, pages
from hftd.shm.pages import Wanted
from tests.support import keepers
from tests.support.keepers import KEYS, SERVICE, Daemon, Floor, run, until


async def row(floor: Floor, epoch: int) -> records.HistoryRow | None:
    entry = await floor.store.get(KEYS.history_row(SERVICE, epoch))
    return model.decode(records.HistoryRow, entry.value) if entry else None


async def request(floor: Floor, **changed: object) -> None:
    asked = records.RequestRecord("op-1", "failover", None, 1, "pending", "ops", "drill", 1)
    await floor.store.put(KEYS.request(SERVICE), model.encode(replace(asked, **changed)))  # type: ignore[arg-type]


async def outcome(floor: Floor) -> records.RequestRecord:
    entry = await floor.store.get(KEYS.request(SERVICE))
    assert entry is not None
    return model.decode(records.RequestRecord, entry.value)


async def never_two(
    daemons: Sequence[Daemon], done: Callable[[], object], what: str, timeout_s: float = 10.0
) -> None:
    """Look at all words until `done`; no two of them may lead at one look."""

    def look() -> object:
        leading = [daemon.instance for daemon in daemons if daemon.leads()]
        assert len(leading) <= 1, f"two leaders at once: {leading}"
        return done()

    await until(look, what, timeout_s)


class Witness(MemoryStore):
    """A store that looks at something the moment a leader record is written, and may hold back answers."""

    def __init__(self) -> None:
        super().__init__()
        self.on_leader: Callable[[records.LeaderRecord], None] = lambda record: None
        self.hold: asyncio.Event | None = None
        self.held = 0

    async def txn(self, compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
        for operation in then:
            if isinstance(operation, Put) and operation.key == KEYS.leader(SERVICE):
                self.on_leader(model.decode(records.LeaderRecord, operation.value))
        answer = await super().txn(compares, then)
        if self.hold is not None and any(operation.key == KEYS.leader(SERVICE) for operation in then):
            self.held += 1
            await self.hold.wait()
        return answer


def test_killed_leader_is_succeeded_by_the_named_standby_with_the_next_epoch(tmp_path: Path) -> None:
    """The old word is zero BEFORE the transaction that names the successor is sent (R7, R8)."""
    store = Witness()

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        named: list[pages.LeaseWord] = []

        def look(record: records.LeaderRecord) -> None:
            if record.holder == second.process and record.epoch == 2:
                named.append(first.lease())

        store.on_leader = look
        first.kill()
        await never_two([first, second], second.leads, "beta leads")
        assert named and (named[0].wanted, named[0].valid_until_ns) == (Wanted.HAND_OVER, 0)
        assert second.lease().epoch == 2 and second.lease().incarnation == keepers.INCARNATION
        await until(
            lambda: (
                (found := floor.keepers["beta"].members[second.instance].group)
                and found.row
                and found.row.active_ns
            ),
            "the row is complete",
        )
        found = await row(floor, 2)
        assert found and (found.cause, found.from_instance, found.to_instance) == (
            "process_lost",
            first.instance,
            second.instance,
        )
        assert found.active_ns and found.taken_ns and found.started_ns <= found.taken_ns <= found.active_ns
        assert protocol.FromKeeper(died=protocol.Died(first.process)) in floor.told
        await until(lambda: not floor.keepers["alpha"].registry.held(), "alpha is out of discovery")
        assert await floor.store.get(KEYS.registration(SERVICE, first.instance)) is None

    run(tmp_path, case, store)


def test_keeper_killed_and_restarted_changes_no_role(tmp_path: Path) -> None:
    """Row 37: the word outlives the keeper, the new one renews before it writes (R6), the epoch stays, the
    daemon leads all the time.
    """

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        before = first.lease()
        await floor.kill_keeper("alpha")
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((first.entry(),)))

        def goes_on() -> bool:
            assert first.leads(), "the leader lost its word while its keeper restarted"
            return first.lease().valid_until_ns > before.valid_until_ns

        await never_two([first, second], goes_on, "the new keeper renews")
        assert first.lease().epoch == 1 and not second.leads()
        leader = await floor.leader()
        assert leader and leader.holder == first.process and leader.epoch == 1

    run(tmp_path, case)


def test_keeper_restarted_after_it_closed_hands_over(tmp_path: Path) -> None:
    """R7: the closing is in the word; the new keeper does not reopen the epoch although the process lives."""

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        await floor.kill_keeper("alpha")
        with pages.LeasePage(first.lease_path, writable=True) as lease:
            lease.write(replace(lease.read(), wanted=Wanted.HAND_OVER, valid_until_ns=0))
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((first.entry(),)))
        await never_two([first, second], lambda: first.leads() or second.leads(), "somebody leads")
        leader = await floor.leader()
        assert leader and leader.epoch >= 2

    run(tmp_path, case)


def test_late_answer_of_a_renewal_does_not_arm_a_closed_word(tmp_path: Path) -> None:
    store = Witness()

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        store.hold = asyncio.Event()
        await until(lambda: store.held, "a renewal is applied and unanswered")
        first.kill()
        await until(lambda: first.lease().wanted is Wanted.HAND_OVER, "alpha's epoch is closed")
        hold, store.hold = store.hold, None
        hold.set()
        armed: list[pages.LeaseWord] = []
        await never_two([first, second], lambda: armed.append(first.lease()) or second.leads(), "beta leads")
        assert {(lease.wanted, lease.valid_until_ns) for lease in armed} == {(Wanted.HAND_OVER, 0)}

    run(tmp_path, case, store)


def test_two_keepers_race_for_holder_none_and_exactly_one_wins(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        daemons = [floor.daemon(host) for host in ("alpha", "beta", "gamma")]
        made = [await floor.keeper(daemon.host, floor.store.client()) for daemon in daemons]  # type: ignore[attr-defined]
        for keeper, daemon in zip(made, daemons, strict=True):
            keeper.apply(protocol.Table((daemon.entry(),)))
        await never_two(daemons, lambda: any(daemon.leads() for daemon in daemons), "one leads")
        await asyncio.sleep(0.2)  # a second winner would show here
        await never_two(daemons, lambda: True, "still one")
        leader = await floor.leader()
        assert leader and leader.epoch == 1

    run(tmp_path, case)


def test_a_lost_answer_of_the_first_take_still_leads_after_a_renewal_of_its_own(tmp_path: Path) -> None:
    store = MemoryStore()

    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha")
        await until(lambda: alpha.shown.complete, "the store is seen")
        txn = store.txn

        async def lossy(compares: Sequence[Compare], then: Sequence[Put | Delete]) -> Committed | Lost:
            if any(operation.key == KEYS.epoch(SERVICE) for operation in then):
                store.lose_next_answer()
            return await txn(compares, then)

        store.txn = lossy  # type: ignore[method-assign]
        alpha.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "alpha leads")
        leader = await floor.leader()
        assert leader and leader.epoch == 1 and only.lease().epoch == 1

    run(tmp_path, case, store)


def test_leader_cut_off_from_the_store_stops_before_its_successor_begins(tmp_path: Path) -> None:
    """Row 7 without failsafe: fenced at its deadline, taken over after the lease."""

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        alpha = floor.keepers["alpha"]
        await floor.kill_keeper("alpha")
        cut = floor.store.client()  # type: ignore[attr-defined]
        alpha = await floor.keeper("alpha", cut)
        alpha.apply(protocol.Table((first.entry(),)))
        await until(lambda: alpha.members[first.instance].lead, "alpha's keeper goes on")
        cut.cut()
        await never_two([first, second], second.leads, "beta leads")
        assert second.lease().epoch == 2
        cut.heal()
        await never_two(
            [first, second],
            lambda: first.lease().wanted is Wanted.STANDBY,
            "alpha stands down when it sees the store again",
        )
        found = await row(floor, 2)
        assert found and found.cause == "lease_expired"

    run(tmp_path, case)


def test_leader_sigstop_is_not_renewed_and_comes_back_as_standby(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        first.kill(signal.SIGSTOP)
        await never_two([first, second], second.leads, "beta leads")
        first.kill(signal.SIGCONT)
        await never_two(
            [first, second],
            lambda: first.lease().wanted is Wanted.STANDBY and first.alive().phase is Phase.STANDBY,
            "alpha stands by",
        )

    run(tmp_path, case)


def test_failover_request_kills_the_leader_and_is_settled_by_the_take(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        await request(floor, to=second.instance)
        await never_two([first, second], second.leads, "beta leads")
        assert first.child is not None and first.child.wait(5) == -signal.SIGKILL
        assert (await outcome(floor)).state == "succeeded"
        found = await row(floor, 2)
        assert found and (found.cause, found.actor, found.reason, found.operation, found.started_ns) == (
            "failover",
            "ops",
            "drill",
            "op-1",
            1,
        )

    run(tmp_path, case)


def test_failover_request_that_nobody_can_take_leaves_the_leader_alone(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        first, _ = await floor.pair()
        await request(floor, to="omsd-delta-1")
        group = floor.keepers["alpha"].members[first.instance]
        await until(
            lambda: group.group and group.group.request and group.group.request.state == "refused",
            "the request is refused",
        )
        assert first.leads() and first.child is not None and first.child.poll() is None
        assert "not electable" in (await outcome(floor)).outcome

    run(tmp_path, case)


def test_a_stopped_keeper_gives_the_lead_back_and_leaves_discovery(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "alpha leads")
        await until(lambda: list(alpha.registry.held()) == [only.instance], "alpha is registered")
        await alpha.stop()
        assert (only.lease().wanted, only.lease().valid_until_ns) == (Wanted.HAND_OVER, 0)
        leader = await floor.leader()
        assert leader and leader.holder is None and leader.home == only.instance and leader.epoch == 1
        assert await floor.store.get(KEYS.registration(SERVICE, only.instance)) is None

    run(tmp_path, case)


def test_the_only_member_leads_again_with_a_new_process_and_the_next_epoch(tmp_path: Path) -> None:
    """R14."""

    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "alpha leads")
        old = only.process
        only.end()
        await until(lambda: alpha.members[only.instance].lead is None, "the lead is given back")
        only.start()
        alpha.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "the new process leads")
        assert only.process != old and only.lease().epoch == 2
        found = await row(floor, 2)
        assert found and found.cause == "process_lost" and found.started_ns < (found.taken_ns or 0)

    run(tmp_path, case)


def test_a_process_replaced_while_no_keeper_ran_is_handed_over(tmp_path: Path) -> None:
    """R2: the record names a dead process; its successor on the same host does not inherit the epoch."""

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        await floor.kill_keeper("alpha")
        first.end()
        first.start()
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((first.entry(),)))
        await never_two([first, second], lambda: first.leads() or second.leads(), "somebody leads")
        leader = await floor.leader()
        assert leader and leader.epoch >= 2 and leader.holder in (first.process, second.process)

    run(tmp_path, case)


def test_the_floors_are_on_disk_before_the_word_is_armed_and_follow_a_new_take(tmp_path: Path) -> None:
    """R11: execd's leader is read after omsd's own take, and again when execd is led anew."""

    async def case(floor: Floor) -> None:
        gateway, only = (
            floor.daemon("alpha", "execd", fences=(SERVICE,)),
            floor.daemon("alpha", fences=("execd",)),
        )
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((gateway.entry(),)))
        await until(gateway.leads, "execd is led")
        await until(lambda: list(alpha.registry.held()) == [gateway.instance], "execd is registered")
        alpha.apply(protocol.Table((gateway.entry(), only.entry())))

        def fences(daemon: Daemon) -> dict[str, dict[str, object]]:
            return msgspec.json.decode(fence_file.path_of(daemon.lease_path).read_bytes())  # type: ignore[no-any-return]

        await until(only.leads, "omsd is led")
        found = fences(only)["execd"]
        assert found["token"] == {"incarnation": keepers.INCARNATION, "group": "execd", "epoch": 1}
        assert found["leader"] == msgspec.to_builtins(gateway.process) and found["endpoints"] == {
            "orders": f"ipc://{gateway.instance}"
        }
        gateway.end()
        gateway.start()
        alpha.apply(protocol.Table((gateway.entry(), only.entry())))
        await until(lambda: gateway.leads() and gateway.lease().epoch == 2, "execd is led anew")
        assert fences(gateway)[SERVICE]["token"] == {
            "incarnation": keepers.INCARNATION,
            "group": SERVICE,
            "epoch": 1,
        }
        await until(
            lambda: fences(only)["execd"]["leader"] == msgspec.to_builtins(gateway.process),
            "omsd's fence file names the new execd",
        )

    run(tmp_path, case)


def test_a_lead_that_was_armed_is_looked_at_until_it_is_active_and_not_at_the_next_look(
    tmp_path: Path,
) -> None:
    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha", poll_s=3_600.0)
        await until(lambda: only.alive().pid == only.process.pid, "the daemon has written its word")
        alpha.apply(protocol.Table((only.entry(),)))
        await until(
            lambda: (found := alpha.members[only.instance].group) and found.row and found.row.active_ns,
            "the row says active",
        )

    run(tmp_path, case)


def test_records_that_do_not_decode_keep_no_other_group_from_its_leader(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        only, other = floor.daemon("alpha"), floor.daemon("alpha", "execd")
        alpha = await floor.keeper("alpha")
        for key in (
            KEYS.host("beta"),
            KEYS.spec("execd"),
            KEYS.leader("execd"),
            KEYS.epoch("execd"),
            KEYS.registration("execd", "execd-beta-1"),
            KEYS.leader("a/b/c"),
            f"{KEYS.groups}stray",
            f"{KEYS.pause}d",
        ):
            await floor.store.put(key, b"\xff{")
        alpha.apply(protocol.Table((only.entry(), other.entry())))
        await until(only.leads, "omsd is led")
        assert alpha.members[other.instance].sentence.startswith("does not act"), "and the other one says why"

    run(tmp_path, case)


def test_a_store_below_the_keepers_disk_gets_no_leader(tmp_path: Path) -> None:
    """R19: it was emptied or restored, and its incarnation was not raised."""
    (tmp_path / "alpha").mkdir()
    seen = {
        "incarnation": keepers.INCARNATION,
        "floors": {SERVICE: {"incarnation": keepers.INCARNATION, "epoch": 7}},
    }
    (tmp_path / "alpha" / "keeper.json").write_bytes(msgspec.json.encode(seen))

    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha")
        alpha.apply(protocol.Table((only.entry(),)))
        await until(lambda: "went back" in alpha.members[only.instance].sentence, "the keeper says so")
        assert await floor.leader() is None and not only.leads()
        await floor.store.put(KEYS.incarnation, str(keepers.INCARNATION + 1).encode())
        await until(only.leads, "with a raised incarnation it leads")
        await until(
            lambda: str(keepers.INCARNATION + 1) in (tmp_path / "alpha" / "keeper.json").read_text(),
            "the disk follows",
        )

    run(tmp_path, case)


def test_registrations_come_back_after_the_store_lost_their_lease(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha", registration_keep_s=0.05)
        alpha.apply(protocol.Table((only.entry(),)))
        key = KEYS.registration(SERVICE, only.instance)
        await until(lambda: alpha.registry.held(), "registered")
        await floor.store.delete(key)
        await until(lambda: key in alpha.shown.registrations.entries, "a deleted key is put again")
        floor.store.memory.end_lease(next(iter(floor.store.memory._grants)))  # type: ignore[attr-defined]
        assert await floor.store.get(key) is None
        await until(lambda: key in alpha.shown.registrations.entries, "a lost lease is replaced")

    run(tmp_path, case)


def test_an_unreachable_store_at_the_start_is_waited_for(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        away = floor.store.client()  # type: ignore[attr-defined]
        away.cut()
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha", away)
        alpha.apply(protocol.Table((only.entry(),)))
        with pytest.raises(Unavailable):
            await away.get(KEYS.incarnation)
        away.heal()
        await until(only.leads, "alpha leads")

    run(tmp_path, case)
