"""Fault: a disk that takes a second to sync a fence. The loops of execd and riskd hold a lease and turn on;
nothing is acknowledged, and nothing passes, before the disk has it (R10).
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from controlplane.model import Phase
from hftd import bus
from hftd.daemons import riskd
from hftd.engine import reasons
from hftd.settings import RiskSettings
from hftd.shm import kept_fences
from hftd.wire import codec, control, orders
from hftd.wire.orders import OrderState
from tests.support import claims, order_path
from tests.support.order_path import INCARNATION, Member, OrderPath
from tests.support.order_stage import active, standby

HEAD = (1, 2, 3, "agent-alpha", None)
TURN_MAX_S = 0.5
"""Generous: a turn takes well under a millisecond; one that waited for the disk takes a second or more."""


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        yield from order_path.path(Path(folder))


class SlowDisk:
    """Every fence that a receiver of ours writes takes so long; the venue's own disk is another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.writes, self.error = 0.0, 0, ""
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()
        self._write = kept_fences.write
        monkeypatch.setattr(kept_fences, "write", self.write)

    def write(self, path: Path, rows: Mapping[str, kept_fences.Row]) -> None:
        if path.parent.name.startswith(("execd", "riskd")):
            self.begun.set()
            time.sleep(self.seconds)
            assert self.may_end.wait(60)
            self.writes += 1
            if self.error:
                raise OSError(28, self.error)
        self._write(path, rows)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def watched(member: Member) -> list[float]:
    """How long each turn of this member takes from here on, in seconds."""
    turns: list[float] = []
    turn = member.turn

    def timed() -> None:
        began_s = time.monotonic()
        turn()
        turns.append(time.monotonic() - began_s)

    member.turn = timed  # type: ignore[method-assign]
    return turns


@pytest.mark.parametrize("seconds", [0.2, 1.0, 5.0])
def test_a_take_over_waits_for_the_disk_of_execd_and_its_loop_does_not(
    path: OrderPath, disk: SlowDisk, seconds: float
) -> None:
    alpha = active(path)
    beta = standby(path)
    old = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(old) == [OrderState.WORKING])
    execd, writes = path.members["execd-alpha-1"], disk.writes
    turns, disk.seconds = watched(execd), seconds
    alpha.kill()
    path.introduce()
    beta.lead(2)
    began_s = time.monotonic()
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE)
    assert disk.writes > writes, "not before the disk had it"
    assert time.monotonic() - began_s > seconds / 2
    assert max(turns) < TURN_MAX_S, "its loop waited for the disk"
    path.until("riskd knows the new leader", lambda: path.riskd.epoch == 2)
    new = path.riskd.place()
    path.until("trading goes on", lambda: path.riskd.states(new) == [OrderState.WORKING])


def test_nothing_passes_while_a_fence_is_being_written(path: OrderPath, disk: SlowDisk) -> None:
    alpha = active(path)
    beta = standby(path)
    disk.begun.clear()
    disk.may_end.clear()
    beta.lead(2)
    path.until("the fence is being written", disk.begun.is_set)
    before = [each for each in path.venue.heard if isinstance(each, orders.Place)]
    late = path.riskd.place()
    path.until("the deposed leader's order is refused", lambda: path.riskd.reasons(late))
    assert path.riskd.reasons(late)[0] in (reasons.STALE_TOKEN, reasons.NOT_ACTIVE)
    assert [each for each in path.venue.heard if isinstance(each, orders.Place)] == before
    assert alpha.phase is not Phase.STANDBY and beta.phase is Phase.FENCING
    disk.may_end.set()
    path.until("beta is active", lambda: beta.phase is Phase.ACTIVE)


def test_a_fence_that_the_slow_disk_refuses_in_the_end_is_not_acknowledged(
    path: OrderPath, disk: SlowDisk
) -> None:
    active(path)
    beta = standby(path)
    disk.seconds, disk.error = 0.2, "No space left on device"
    beta.lead(2)
    path.until("it is said", lambda: "fence_refused" in beta.context.alarms)
    assert "could not be written" in beta.context.alarms["fence_refused"].text
    assert beta.phase is Phase.FENCING
    disk.error = ""
    path.until("with room it is active", lambda: beta.phase is Phase.ACTIVE)


def test_an_execd_that_takes_over_waits_for_the_disk_without_an_alarm(
    path: OrderPath, disk: SlowDisk
) -> None:
    alpha = active(path)
    disk.seconds = 1.0
    execd = path.members["execd-alpha-1"]
    turns = watched(execd)
    execd.lead(2, told=order_path.claim(alpha, 1))
    path.until("it is active again", lambda: execd.context.lease.epoch == 2 and execd.phase is Phase.ACTIVE)
    assert max(turns) < TURN_MAX_S and "floor_not_written" not in execd.context.alarms


@pytest.mark.parametrize("seconds", [0.2, 1.0])
def test_an_operators_reset_waits_for_the_disk_of_execd_and_its_loop_does_not(
    path: OrderPath, disk: SlowDisk, seconds: float
) -> None:
    active(path)
    execd = path.members["execd-alpha-1"]
    answers: list[tuple[int, bool, object]] = []

    def send(make: object, *fields: Any, **_: object) -> bool:
        if make is control.Answer:
            answers.append(fields)  # type: ignore[arg-type]
        return True

    execd.context.agent.send = send  # type: ignore[method-assign]
    (row,) = execd.loop._on_ask["fences"]({})
    other = codec.ProcessOnWire("omsd-beta-1", "11111111-2222-3333-4444-555555555555", 7, 7)
    file, writes = execd.context.data_dir / "fences.json", disk.writes
    turns, disk.seconds, began_s = watched(execd), seconds, time.monotonic()
    before = file.read_bytes()
    asked = control.FenceReset(*HEAD, 41, codec.TokenOnWire(INCARNATION, "omsd", 1), other, row["admitted"])
    execd.loop._from_agent(codec.encode(asked))
    path.riskd.place()
    path.turn()
    assert answers == [] and file.read_bytes() == before
    path.until("the agent is answered", lambda: answers)
    assert [each for each in path.venue.heard if isinstance(each, orders.Place)] == [], (
        "nothing passes meanwhile"
    )
    assert time.monotonic() - began_s > seconds * 0.9 and disk.writes == writes + 1
    assert max(turns) < TURN_MAX_S, "its loop waited for the disk"
    assert answers == [(41, True, "")]
    assert b"omsd-beta-1" in file.read_bytes()


def test_riskd_takes_an_order_manager_once_the_disk_has_its_fence_and_turns_meanwhile(
    tmp_path: Path, disk: SlowDisk
) -> None:
    with tempfile.TemporaryDirectory(prefix="hft-") as name:
        folder = Path(name)
        gate = Member(
            folder,
            "riskd-alpha-1",
            lambda context: riskd.build(context, RiskSettings()),
            leads=True,
            generation=1,
        )
        gate.lead(1)
        link = bus.link.Dealer("omsd-alpha-1.1", gate.context.endpoints["orders"])
        process = codec.ProcessOnWire("omsd-alpha-1", "boot", 7, 7)
        attach = orders.Attach(
            *codec.head("omsd-alpha-1", 1, 0, codec.TokenOnWire(INCARNATION, "omsd", 1)), process
        )
        frame = codec.encode(claims.signed(attach, link, folder / "site"))
        disk.seconds, turns = 1.0, watched(gate)
        try:
            began_s = time.monotonic()
            while not link.send(frame):
                time.sleep(0.01)
            while not link.socket.poll(0):
                gate.turn()
                assert time.monotonic() - began_s < 20
            answer = orders.decode_coming_back(link.socket.recv())
            assert isinstance(answer, orders.Attached) and answer.ok
            assert time.monotonic() - began_s > 0.9 and max(turns) < TURN_MAX_S
            assert not gate.context.counters.get("stale_token_refusals")
        finally:
            link.close()
            gate.kill(clean=True)
