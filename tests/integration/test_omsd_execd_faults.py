"""omsd and execd as built, over real sockets: full disks, absent receivers, noise."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import zmq

from controlplane.model import Phase
from hftd.engine import reasons
from hftd.wire import orders
from hftd.wire.orders import OrderState
from tests.support.order_path import OrderPath
from tests.support.order_stage import active, audit, electable, positions, standby, unacknowledged


def test_a_full_journal_refuses_new_orders_loses_no_fill_and_goes_on_by_itself(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path)
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name))
    (order_id,) = path.venue.working

    def full(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        patched.setattr("hftd.storage.journal.Journal.recovered", lambda _: False)
        refused = path.riskd.place()
        path.until("it is refused", lambda: path.riskd.reasons(refused) == [reasons.JOURNAL_FULL])
        assert alpha.context.alarms["journal_full"].severity == "critical"
        path.venue.fill(order_id)
        path.until("execd has its report, and keeps it", lambda: unacknowledged(path))
        for _ in range(200):
            path.turn()
        assert positions(path) == {}, "not journaled, so not taken"
        assert unacknowledged(path), "and not acknowledged"
    path.until("the fill is taken", lambda: positions(path) == {"BTCUSDT": "0.001"})
    path.until("trading goes on", lambda: alpha.phase is Phase.ACTIVE)
    assert "journal_full" not in alpha.context.alarms
    after = path.riskd.place()
    path.until("a new order works", lambda: path.riskd.states(after) == [OrderState.WORKING])


def test_a_standby_whose_disk_is_full_is_not_electable_until_there_is_room(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path)
    beta = standby(path)
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if "omsd-beta-1" in str(Path(f"/proc/self/fd/{fd}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        patched.setattr("hftd.storage.journal.Journal.recovered", lambda _: False)
        name = path.riskd.place()
        path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
        path.until("the alarm", lambda: "journal_full" in beta.context.alarms)
        path.until("not electable", lambda: electable(alpha) == [])
        for _ in range(50):
            path.turn()
            assert electable(alpha) == []
    path.until("electable again", lambda: electable(alpha) == ["omsd-beta-1"])
    path.until("it has all", lambda: alpha.ask("orders") == beta.ask("orders"))


def test_auditd_and_positiond_catch_up_after_an_absence(path: OrderPath) -> None:
    active(path, resend_s=0.05)
    for instance in ("positiond-alpha-1", "auditd-alpha-1"):
        path.members[instance].kill(clean=True)
    names = [path.riskd.place() for _ in range(3)]
    path.until("all work", lambda: all(path.riskd.states(name) for name in names))
    for order_id in list(path.venue.working):
        path.venue.fill(order_id)
    path.until("riskd knows", lambda: all(path.riskd.states(name)[-1] is OrderState.FILLED for name in names))
    path.start("positiond-alpha-1")
    path.start("auditd-alpha-1")
    path.introduce()
    path.until("positions are whole", lambda: positions(path) == {"BTCUSDT": "0.003"})
    path.until("the audit is whole", lambda: audit(path).count("ORDER_FILLED") == 3)
    assert "gaps" not in path.members["auditd-alpha-1"].context.counters


def test_what_does_not_decode_is_counted_and_dropped_everywhere(path: OrderPath) -> None:
    alpha = active(path)
    path.riskd.router.send(path.riskd.omsd, b"\xc1 no message")
    path.venue.router.send(path.venue.gateway, b"\xc1")
    alpha.loop._handlers[0][0].send(b"\xff\xff")
    execd = path.members["execd-alpha-1"]
    path.until(
        "both have counted",
        lambda: (
            alpha.context.counters.get("undecodable") and execd.context.counters.get("undecodable", 0) >= 2
        ),
    )
    name = path.riskd.place()
    path.until("nothing else happened", lambda: path.riskd.states(name) == [OrderState.WORKING])


def test_an_order_whose_lease_ends_while_it_is_journaled_does_not_leave(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes longer than the lease lasts. What the order replaces is cancelled all the same."""
    alpha = active(path)
    old = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(old) == [OrderState.WORKING])
    written = os.pwrite

    def slow(fd: int, data: bytes, offset: int) -> int:
        alpha.lead(1, valid_until_ns=1)
        return written(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", slow)
        late = path.riskd.place(replaces=old)
        path.until("it is refused", lambda: path.riskd.reasons(late) == [reasons.NOT_ACTIVE])
    path.until("the old one is cancelled", lambda: path.riskd.states(old)[-1] is OrderState.CANCELLED)
    assert [each.client_order_id for each in path.venue.heard if isinstance(each, orders.Place)] == [old]
    assert alpha.context.counters["late_after_journal"] == 1
    path.until("the refusal is audited", lambda: "ORDER_REFUSED" in audit(path))
    assert audit(path)[3:5] == ["ORDER_PLACED", "ORDER_REFUSED"]
    before = sorted(alpha.ask("orders"), key=str)
    alpha.kill(clean=True)
    again = path.start("omsd-alpha-1")
    assert sorted(again.ask("orders"), key=str) == before, "and so its journal tells it"


def test_an_unanswered_order_whose_cancel_reached_nobody_is_unknown_until_the_venue_tells(
    path: OrderPath,
) -> None:
    alpha = active(path)
    path.venue.deaf = True
    name = path.riskd.place()
    path.until("the venue has it, and is silent", lambda: path.venue.working)
    assert [row["status"] for row in alpha.ask("orders")] == ["pending_new"]
    path.members["execd-alpha-1"].kill(clean=True)
    path.until("execd is gone", lambda: not alpha.loop._handlers[0][0].poll(0, zmq.POLLOUT))
    path.riskd.cancel(name)
    path.until("the cancel is refused", lambda: path.riskd.reasons(name) == [reasons.NOT_CONNECTED])
    assert [row["status"] for row in alpha.ask("orders")] == ["unknown"]

    path.venue.deaf = False
    execd = path.start("execd-alpha-1")
    path.introduce()
    execd.lead(2)
    path.until("the venue has told", lambda: path.riskd.states(name) == [OrderState.CANCELLED])
    assert [row["status"] for row in alpha.ask("orders")] == ["cancelled"]
    path.until("omsd is active again", lambda: alpha.phase is Phase.ACTIVE)
