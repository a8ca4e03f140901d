"""auditd as a process: what it acknowledged survives kill -9 of it, nothing is written twice, and the head
follows.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftd import bus
from hftd.storage import audit_verify
from hftd.wire import codec, orders
from tests.support import claims, daemons

CLAIMANT = codec.ProcessOnWire("omsd-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 1, 1)
OTHER = codec.ProcessOnWire("omsd-beta-1", "6e2b1c1e-0000-4000-8000-000000000000", 2, 2)


@pytest.fixture
def auditd(tmp_path: Path) -> Iterator[daemons.Daemon]:
    with daemons.daemon(tmp_path, "auditd", {"file_bytes_max": 4096}) as one:
        yield one


@pytest.fixture
def omsd(auditd: daemons.Daemon) -> Iterator[bus.link.Dealer]:
    dealer = bus.link.Dealer("omsd-alpha-1.1", auditd.endpoint("events"))
    yield dealer
    dealer.close()


def attach(omsd: bus.link.Dealer, epoch: int, claimant: codec.ProcessOnWire = CLAIMANT) -> orders.Attached:
    claim = orders.Attach(1, 0, 0, "omsd-alpha-1", codec.TokenOnWire(7, "omsd", epoch), claimant)
    frame = codec.encode(claims.signed(claim, omsd, claims.site_of(omsd)))
    daemons.wait_for("auditd takes the link", lambda: omsd.send(frame))
    answer = daemons.receive(
        omsd.socket, orders.decode_coming_back, lambda message: isinstance(message, orders.Attached)
    )
    assert isinstance(answer, orders.Attached)
    return answer


def send(omsd: bus.link.Dealer, first: int, last: int, epoch: int = 1) -> None:
    token = codec.TokenOnWire(7, "omsd", epoch)
    for n in range(first, last + 1):
        record = orders.AuditRecord(
            1,
            0,
            0,
            "omsd-alpha-1",
            token,
            n,
            "ORDER_PLACED",
            "strategy-mm",
            n,
            {"order_id": f"omsd-{epoch}-{n}"},
        )
        assert omsd.send(codec.encode(record))


def seen(omsd: bus.link.Dealer, up_to: int) -> None:
    daemons.receive(
        omsd.socket,
        orders.decode_coming_back,
        lambda message: isinstance(message, orders.AuditSeen) and message.up_to == up_to,
    )


def findings(folder: Path, *, with_head: bool) -> list[audit_verify.AuditFinding]:
    return audit_verify.verify(
        folder / "site" / "audit",
        audit_verify.read_head(folder / "site" / "audit.head") if with_head else None,
    )


def test_what_auditd_acknowledged_survives_kill_9_and_is_written_once(
    auditd: daemons.Daemon, omsd: bus.link.Dealer, tmp_path: Path
) -> None:
    auditd.start()
    assert attach(omsd, 1) and omsd.send(b"noise")
    send(omsd, 1, 40)
    seen(omsd, 40)
    send(omsd, 31, 45)
    seen(omsd, 45)
    assert auditd.counted("duplicates", 10).counters["undecodable"] == 1
    auditd.end(signal.SIGKILL)
    assert findings(tmp_path, with_head=True) == []

    auditd.start()
    assert attach(omsd, 1).last_seq == 45
    refused = attach(omsd, 1, OTHER)
    assert not refused.ok and "claimed" in refused.reason
    send(omsd, 44, 50)
    seen(omsd, 50)
    assert attach(omsd, 2, OTHER).ok
    send(omsd, 49, 52, epoch=1)  # the new leader brings what the old one wrote and auditd has not seen
    send(omsd, 1_000_000, 1_000_002, epoch=2)
    seen(omsd, 1_000_002)
    head = auditd.ask("head")
    assert head["seq"] == 55
    assert auditd.end() == 0
    kept = audit_verify.read_head(tmp_path / "site" / "audit.head")
    assert kept is not None and (kept.seq, kept.hash) == (55, head["hash"])
    assert findings(tmp_path, with_head=True) == [] and len(list((tmp_path / "site" / "audit").iterdir())) > 1


def test_a_cut_tail_is_an_alarm_and_stays_in_the_chain(
    auditd: daemons.Daemon, omsd: bus.link.Dealer, tmp_path: Path
) -> None:
    auditd.start()
    attach(omsd, 1)
    send(omsd, 1, 5)
    seen(omsd, 5)
    auditd.end()
    log = tmp_path / "site" / "audit" / "1.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    auditd.start()
    status = auditd.until(lambda message: bool(getattr(message, "alarms", None)))
    assert status.alarms[0].id == "audit.tail_lost" and status.alarms[0].severity == "critical"
    auditd.end()
    assert [found.kind for found in findings(tmp_path, with_head=True)] == ["tail_lost"]
