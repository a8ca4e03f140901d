"""Fault: a leader dies with orders at the venue that nobody else has heard of; auditd is away over a
failover; auditd does not come back. The audit log has every order that the venue saw, or an alarm says that
it lags.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.model import Phase
from hftd.daemons.omsd import daemon, receivers
from hftd.storage import audit_verify
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import Member, OrderPath
from tests.support.order_stage import active, electable, standby


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        yield from order_path.path(Path(folder))


def records(path: OrderPath) -> list[dict[str, Any]]:
    file = path.site_dir / "audit" / "1.jsonl"
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def placed(path: OrderPath) -> list[tuple[int, str]]:
    """(epoch, client order id) of each order in the log."""
    return [
        (each["epoch"], each["details"]["client_order_id"])
        for each in records(path)
        if each["action"] == "ORDER_PLACED"
    ]


def works(path: OrderPath) -> str:
    name = path.riskd.place()
    path.until("it works", lambda: path.riskd.states(name) == [OrderState.WORKING])
    return name


def leads(path: OrderPath, member: Member, epoch: int) -> None:
    path.introduce(omsd_leader=member.process.instance, epoch=epoch)
    member.lead(epoch)
    path.until("it leads", lambda: member.phase is Phase.ACTIVE and path.riskd.epoch == epoch)


def test_what_a_killed_leader_sent_unheard_is_audited_under_its_own_token_once_it_is_back(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path)
    beta = standby(path)
    first = works(path)
    path.until("audited", lambda: placed(path) == [(1, first)])
    monkeypatch.setattr(daemon, "TELL_AFTER_NS", 1 << 60)  # the last millisecond of alpha's life
    unheard = [path.riskd.place() for _ in range(3)]
    path.until("at the venue", lambda: len(path.venue.working) == 4)
    alpha.kill(clean=True)
    monkeypatch.undo()
    leads(path, beta, 2)
    second = works(path)
    path.until("beta's own is audited", lambda: (2, second) in placed(path))
    assert placed(path) == [(1, first), (2, second)], "nobody knows of those that alpha alone had"

    again = path.start("omsd-alpha-1")
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    path.until("all are audited", lambda: len(placed(path)) == 5)
    assert placed(path)[2:] == [(1, name) for name in unheard]
    journal = path.folder / "data" / "omsd-alpha-1" / "journal"
    path.until("kept for people alone", lambda: list(journal.glob("aside-*.journal")))
    assert again.happened("audit.tail") and not list(journal.glob("*.unaudited"))
    path.until("it follows", lambda: electable(beta) == ["omsd-alpha-1"])
    third = works(path)
    path.until("beta's next is audited", lambda: (2, third) in placed(path))
    assert not path.members["auditd-alpha-1"].happened("audit.gap")
    assert audit_verify.verify(path.site_dir / "audit", None) == []


def test_a_tail_waits_for_auditd_over_restarts_and_is_written_once(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = active(path)
    beta = standby(path)
    first = works(path)
    path.until("audited", lambda: placed(path) == [(1, first)])
    path.members["auditd-alpha-1"].kill(clean=True)
    heard = works(path)
    path.until("beta has it", lambda: alpha.ask("orders") == beta.ask("orders"))
    monkeypatch.setattr(daemon, "TELL_AFTER_NS", 1 << 60)
    unheard = path.riskd.place()
    path.until("at the venue", lambda: len(path.venue.working) == 3)
    alpha.kill(clean=True)
    monkeypatch.undo()
    leads(path, beta, 2)
    for _ in range(2):
        again = path.start("omsd-alpha-1")
        path.introduce(omsd_leader="omsd-beta-1", epoch=2)
        path.until("it follows", lambda: electable(beta) == ["omsd-alpha-1"])
        again.kill(clean=True)
    again = path.start("omsd-alpha-1")
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    path.until("it follows", lambda: electable(beta) == ["omsd-alpha-1"])
    auditd = path.start("auditd-alpha-1")
    again.told("auditd", auditd.peer())
    for _ in range(200):
        path.turn()  # beta does not know of auditd yet, and its records come before these
    assert not again.happened("audit.tail")
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    path.until("it is audited", lambda: again.happened("audit.tail"))
    assert placed(path) == [(1, first), (1, heard), (1, unheard)]
    assert audit_verify.verify(path.site_dir / "audit", None) == []


def test_a_standby_keeps_what_auditd_lacks_so_that_a_failover_loses_no_audit(path: OrderPath) -> None:
    small = {"segment_bytes": 4096, "segments_max": 2}
    alpha = active(path, **small)
    beta = path.start("omsd-beta-1", **small)
    path.introduce(omsd_leader="omsd-alpha-1", epoch=1)
    path.until("the standby is electable", lambda: electable(alpha) == ["omsd-beta-1"])
    path.members["auditd-alpha-1"].kill(clean=True)
    names = [works(path) for _ in range(100)]
    path.until(
        "beta has them, and would have pruned",
        lambda: (
            beta.context.gauges.get("journal_seq", 0) == alpha.context.gauges.get("journal_seq") == 1_000_200
        ),
    )
    beta.loop._timers[-1].run(0)
    alpha.kill(clean=True)
    beta.kill(clean=True)
    beta = path.start("omsd-beta-1", **small)
    leads(path, beta, 2)
    path.start("auditd-alpha-1")
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    path.until("auditd has every order", lambda: len(placed(path)) == 100)
    assert placed(path) == [(1, name) for name in names]
    journal = path.folder / "data" / "omsd-beta-1" / "journal"
    path.until("and then old segments go", lambda: len(list(journal.glob("[0-9]*"))) <= 3)


def test_audit_that_lags_is_a_metric_and_an_alarm_until_auditd_is_back(
    path: OrderPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receivers, "LATE_NS", 100_000_000)
    alpha = active(path)
    works(path)
    path.until("no lag", lambda: alpha.context.gauges.get("audit_lag") == 0)
    path.members["auditd-alpha-1"].kill(clean=True)
    works(path)
    alarm = path.until("the alarm", lambda: alpha.context.alarms.get("audit_behind"))
    assert alarm.severity == "critical", "the site is not healthy while it stands"
    lag = alpha.context.gauges["audit_lag"]
    assert lag == 2 and f"auditd lacks {lag:.0f} records" in alarm.text and "none for" in alarm.text
    works(path)
    path.start("auditd-alpha-1")
    path.introduce()
    path.until("it has caught up", lambda: "audit_behind" not in alpha.context.alarms)
    assert alpha.context.gauges["audit_lag"] == 0
