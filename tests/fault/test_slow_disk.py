"""Fault: the disk under omsd's journal takes 0.2, 1 or 5 s for whatever waits for it.

The loop, which holds a lease, never waits: no lead is lost, orders go on up to the bound of unsynced records,
a standby keeps its heartbeat while it sets its tail aside, and what was acknowledged is in the files.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.model import Phase
from hftd.engine import reasons
from hftd.engine.orders import answers, ids, oms, replica, term
from hftd.storage.journal import Journal, JournalFull
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.disks import SlowDisk
from tests.support.order_path import INCARNATION, Member, OrderPath
from tests.support.order_stage import active, electable

TURN_S_MAX = 0.1
"""A keeper calls a heartbeat stale after 250 ms."""
TOKEN = codec.TokenOnWire(INCARNATION, "omsd", 1)


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        yield from order_path.path(Path(folder))


def folder_of(path: OrderPath, instance: str) -> Path:
    return path.folder / "data" / instance / "journal"


class Timed:
    """How long the turns of a member's loop take."""

    def __init__(self, member: Member, patch: pytest.MonkeyPatch) -> None:
        self._longest_s = [0.0]
        self._turn = member.turn
        patch.setattr(member, "turn", self)

    def __call__(self) -> None:
        began = time.monotonic()
        self._turn()
        self._longest_s = sorted([*self._longest_s, time.monotonic() - began])[-3:]

    @property
    def longest_s(self) -> float:
        """Two turns may be longer: this machine has other work. That none of them waited for the disk, each
        test says by the names of the threads that did.
        """
        return self._longest_s[0]


def after_the_kill(folder: Path, to: Path) -> set[str]:
    """The orders that another process finds in the journal's files as they are now."""
    while True:
        shutil.rmtree(to, ignore_errors=True)
        try:
            shutil.copytree(folder, to)
            break
        except shutil.Error:
            pass  # a file got its final name meanwhile
    again = Journal(to)
    messages = [oms.decode_journaled(record.payload) for record in again.read()]
    again.close()
    return {each.client_order_id for each in messages if isinstance(each, orders.Place)}


@pytest.mark.parametrize(("seconds", "waits"), [(0.2, 12), (1, 5), (5, 2)])
def test_no_lead_is_lost_and_orders_go_on_while_segments_are_begun_on_a_slow_disk(
    path: OrderPath, seconds: float, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path, segment_bytes=4096, segments_max=2, unsynced_max=200)
    folder, copy = folder_of(path, "omsd-alpha-1"), path.folder / "copy"
    timed, disk = Timed(alpha, monkeypatch), SlowDisk(folder, monkeypatch, seconds)
    try:
        for n in range(30):
            name = path.riskd.place()
            path.until("it works", lambda name=name: path.riskd.states(name) == [OrderState.WORKING])
            if n % 10 == 9:
                assert {f"mm-{each}" for each in range(1, n + 2)} <= after_the_kill(folder, copy)
        assert len(list(folder.glob("[0-9]*"))) >= 3, "segments were begun"

        refused = 0

        def waited() -> bool:
            nonlocal refused
            name = path.riskd.place()
            path.until("it is answered", lambda: path.riskd.states(name))
            refused += path.riskd.reasons(name) == [reasons.JOURNAL_FULL]
            return len(disk.waited) >= waits

        path.until("the disk was waited for", waited)
        assert refused, "by the bound of unsynced records"
        assert alpha.context.lease.current_phase is Phase.ACTIVE and not alpha.happened("execution.lost")
        assert {thread for _, thread, _ in disk.waited} <= {"journal-sync", "worker"}
        assert timed.longest_s < TURN_S_MAX
    finally:
        disk.seconds = 0
    path.until("the disk has caught up", lambda: not alpha.context.alarms.get("journal_behind"))
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    path.until("old segments are deleted", lambda: "unlink" in {call for call, _, _ in disk.waited})
    assert {thread for _, thread, _ in disk.waited} <= {"journal-sync", "worker"}


def test_looking_for_room_on_a_slow_disk_holds_up_no_loop(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path)
    timed, disk = Timed(alpha, monkeypatch), SlowDisk(folder_of(path, "omsd-alpha-1"), monkeypatch, 1)
    try:
        with monkeypatch.context() as full:

            def no_room(*_: object) -> None:
                raise JournalFull("no room")

            full.setattr(Journal, "_write", no_room)
            name = path.riskd.place()
            path.until("it is refused", lambda: path.riskd.reasons(name) == [reasons.JOURNAL_FULL])
            assert "journal_full" in alpha.context.alarms
        path.until("there is room", lambda: "journal_full" not in alpha.context.alarms)
        path.until("active again", lambda: alpha.phase is Phase.ACTIVE)
        assert {thread for _, thread, _ in disk.waited} <= {"journal-sync", "worker"}
        assert timed.longest_s < TURN_S_MAX
    finally:
        disk.seconds = 0
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])


def write_history(path: OrderPath, folder: Path, count: int, beyond: int) -> Journal:
    """alpha's journal of epoch 1: `count` orders that ended, which beta has too, and `beyond` more."""
    journal = Journal(folder)
    head = codec.head("omsd-alpha-1", 1, 0, TOKEN)
    process = codec.ProcessOnWire("omsd-alpha-1", "boot", 7, 7)
    journal.append(term.of(TOKEN), codec.encode(orders.Attach(*head, process)), replica.first_of_term(0))
    for n in range(count + beyond):
        if n == count:
            shutil.copytree(folder, folder_of(path, "omsd-beta-1"))
        sequence = journal.last_seq + 1
        place = path.riskd.order(f"old-{n}")
        place = codec.replace(codec.under(place, head), order_id=ids.text("omsd", 1, sequence))
        ended = answers.ended(head, place, OrderState.CANCELLED, "", order_id=place.order_id)
        journal.append(term.of(TOKEN), codec.encode(place))
        journal.append(term.of(TOKEN), codec.encode(ended))
    return journal


def led_by_beta(path: OrderPath) -> tuple[Member, Member]:
    """alpha and beta, which leads."""
    execd = path.start("execd-alpha-1")
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    alpha, beta = path.start("omsd-alpha-1"), path.start("omsd-beta-1")
    path.introduce()
    execd.lead(1)
    path.until("execd is active", lambda: execd.phase is Phase.ACTIVE)
    beta.lead(2)
    path.until("beta leads", lambda: beta.phase is Phase.ACTIVE)
    return alpha, beta


def test_a_standby_keeps_its_heartbeat_while_it_sets_its_tail_aside_and_is_not_electable(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_history(path, folder_of(path, "omsd-alpha-1"), count=20_000, beyond=50).close()
    alpha, beta = led_by_beta(path)
    timed, disk = Timed(alpha, monkeypatch), SlowDisk(folder_of(path, "omsd-alpha-1"), monkeypatch, 0.3)
    try:
        path.introduce(omsd_leader="omsd-beta-1", epoch=2)
        path.until("the tail is being set aside", lambda: not alpha.context.ready)
        assert "set aside" in alpha.context.reason
        heartbeats = set()

        def aside() -> bool:
            heartbeats.add(alpha.context.lease._alive.read().heartbeat_ns)  # type: ignore[union-attr]
            assert electable(beta) == []
            return bool(alpha.happened("journal.set_aside"))

        path.until("it is set aside", aside)
        assert len(heartbeats) > 10
        assert {thread for _, thread, _ in disk.waited} <= {"journal-sync", "worker"}
        assert timed.longest_s < TURN_S_MAX
    finally:
        disk.seconds = 0
    path.until("it follows", lambda: electable(beta) == ["omsd-alpha-1"] and alpha.context.ready)
    assert [each["records"] for each in alpha.happened("journal.set_aside")] == [100]
    path.until("all of it", lambda: alpha.context.gauges.get("journal_seq", 0) >= 2_000_000)
    assert not any(row["client_order_id"] == "old-20001" for row in alpha.ask("orders"))


def test_a_lead_that_comes_while_the_tail_is_set_aside_begins_after_it(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_history(path, folder_of(path, "omsd-alpha-1"), count=200, beyond=5).close()
    alpha, beta = led_by_beta(path)
    disk = SlowDisk(folder_of(path, "omsd-alpha-1"), monkeypatch, 0.3)
    try:
        path.introduce(omsd_leader="omsd-beta-1", epoch=2)
        path.until("the tail is being set aside", lambda: not alpha.context.ready)
        beta.release()
        alpha.lead(3)
        path.turn()
        assert alpha.phase is Phase.STANDBY and not alpha.happened("journal.set_aside")
        path.until("it leads", lambda: alpha.phase is Phase.ACTIVE)
        assert alpha.happened("journal.set_aside")
    finally:
        disk.seconds = 0
    path.until("riskd knows it", lambda: path.riskd.epoch == 3)
    name = path.riskd.place()
    path.until("an order works", lambda: path.riskd.states(name) == [OrderState.WORKING])
