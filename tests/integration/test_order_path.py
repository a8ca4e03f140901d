"""The whole path between processes, with the test as agent and keeper: tape, books, orders, fills, positions,
audit; then omsd's leader is killed.

No store and no election here (tests/fault and tests/story have them): the test writes the words, so that a
fault is in the path or nowhere.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hftd.engine import fixed
from hftd.storage import audit_verify
from hftd.wire import control
from tests.support import daemons

SOCKETS = {
    "simd": ("feed", "snapshots", "orders"),
    "marketd": ("market", "requests"),
    "bookd": ("tops", "marks"),
    "riskd": ("intents", "orders"),
    "execd": ("orders",),
    "positiond": ("executions", "positions"),
    "auditd": ("events",),
}


class Path9:
    """All nine daemons of the order path, with a second omsd."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        def one(name: str, settings: dict[str, Any] | None = None, **more: Any) -> daemons.Daemon:
            return stack.enter_context(daemons.daemon(folder, name, settings, **more))

        # The synthetic market, which needs no recorded data; quoted often, so that seconds are enough.
        self.simd, self.marketd, self.bookd = one("simd"), one("marketd"), one("bookd")
        self.riskd, self.execd = one("riskd", leads=True), one("execd", leads=True)
        self.positiond, self.auditd = one("positiond"), one("auditd")
        self.strategyd = one(
            "strategyd", {"requote_interval_s": 0.1, "rehearsal_interval_s": 0.002}, service="strategy-mm"
        )
        self.omsds = [one("omsd", leads=True), one("omsd", leads=True, host="beta")]
        self.all = [
            self.simd,
            self.marketd,
            self.bookd,
            self.positiond,
            self.auditd,
            self.execd,
            self.riskd,
            *self.omsds,
            self.strategyd,
        ]

    def start(self) -> None:
        told = [
            daemons.peers(name, **{socket: getattr(self, name).endpoint(socket) for socket in sockets})
            for name, sockets in SOCKETS.items()
        ]
        members = [
            control.Peer(omsd.instance, {"replica": omsd.endpoint("replica")}, "standby", 0)
            for omsd in self.omsds
        ]
        told.append(control.Peers(1, 1, 0, "agent", None, "omsd", "omsd", members))
        for each in self.all:
            each.spawn()
        for each in self.all:
            each.greet(*told)
        self.execd.lead(1)
        self.riskd.lead(1)
        self.omsds[0].lead(1)
        self.strategyd.ready()

    def sums(self) -> tuple[dict[tuple[str, str], tuple[str, str]], ...]:
        """(positiond's, the venue's) quantity and cash by instrument."""
        ours = {
            (row["market"], row["symbol"]): (row["quantity"], row["cash"])
            for row in self.positiond.ask("positions")
        }
        rows = self.simd.ask("accounts")
        return ours, {
            (row["market"], row["symbol"]): (fixed.text(row["quantity"]), fixed.text(row["cash"]))
            for row in rows
        }


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path9]:
    with contextlib.ExitStack() as stack:
        yield Path9(tmp_path, stack)


def test_the_path_trades_and_goes_on_when_the_leading_omsd_is_killed(path: Path9, tmp_path: Path) -> None:
    path.start()
    path.strategyd.counted("fills", 10)
    before = path.strategyd.counted("orders", 30).counters["orders"]

    path.omsds[0].end(signal.SIGKILL)
    began_s = time.monotonic()
    path.omsds[1].lead(2)
    path.omsds[1].until(lambda message: isinstance(message, control.Status) and message.phase == "active")
    path.omsds[1].counted("orders")
    assert time.monotonic() - began_s < daemons.WAIT_S
    path.strategyd.counted("orders", before + 20)
    after = path.strategyd.counted("fills", 20)
    assert after.counters.get("undecodable", 0) == after.counters.get("lost", 0) == 0

    path.execd.counted("rehearsals", 100)
    assert not path.simd.counted("messages").counters.get("undecodable"), "no rehearsal reaches the venue"

    path.strategyd.end()  # nothing new; riskd cancels what it left working
    daemons.wait_for("positions that equal the venue's to the last unit", lambda: _equal(path))
    daemons.wait_for("an audit log that has caught up", lambda: path.auditd.counted("records"))
    for each in reversed(path.all):
        if each.process is not None and each.process.poll() is None:
            assert each.end() == 0, each.instance
    site = tmp_path / "site"
    head = audit_verify.read_head(site / "audit.head")
    assert head is not None and audit_verify.verify(site / "audit", head) == []
    log = b"".join(file.read_bytes() for file in audit_verify.files(site / "audit"))
    assert log.count(b'"LEAD_TAKEN"') == 2 and log.count(b'"ORDER_PLACED"') >= 50


def _equal(path: Path9) -> bool:
    ours, venue = path.sums()
    return bool(ours) and ours == venue
