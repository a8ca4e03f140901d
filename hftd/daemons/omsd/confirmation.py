"""omsd's mark of the executions that the venue has confirmed: asked for while we lead, kept on disk, told to
the standbys.

When to ask, and what an answer means: engine/orders/confirmed.py. What is found in a list and was not known
(a report that was lost) is taken like any report: journaled, told to riskd and positiond. A lower mark than
the true one is safe, only more is asked for; so the file needs no sync.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from controlplane.host import files
from controlplane.host.files import Durability
from hftd import runtime
from hftd.daemons.omsd.ledger import Ledger
from hftd.engine.orders import confirmed, report_check
from hftd.wire import orders

REQUEST = 1
"""Of the lists; 0 is the backfill for positiond, a take-over's begin at 3."""
ALARM = "executions_unconfirmed"


class Confirmation:
    def __init__(self, context: runtime.Context, ledger: Ledger, ask: Callable[[int, int], None]) -> None:
        """`ask(request, after_execution)`: the venue, over execd."""
        self._context, self._ledger, self._ask = context, ledger, ask
        self._path = ledger.journal.folder / "confirmed"
        found = _read(self._path)
        if ledger.journal.damage is not None:
            found = 0  # the journal lacks some that were confirmed
        self._confirmed = confirmed.Confirmed(ledger.oms.last_execution if found is None else found)
        self._kept = found
        self._from_seq = 0
        """A standby that has the journal up to here has all that the mark confirms."""

    @property
    def up_to(self) -> int:
        """A tail that was set aside may have held what was confirmed."""
        return min(self._confirmed.up_to, self._ledger.oms.last_execution)

    def of(self, sequence: int) -> int:
        """What a standby that has just taken this record may believe; 0: nothing new."""
        return self.up_to if sequence >= self._from_seq else 0

    def learn(self, up_to: int) -> None:
        """What a leader has told its standby."""
        self._confirmed.set(max(up_to, self.up_to))

    def reconciled(self, up_to: int) -> None:
        """A take-over has had the venue's whole list."""
        self._confirmed.set(up_to)
        self._from_seq = self._ledger.journal.last_seq

    def lowered(self) -> None:
        """Our tail was set aside."""
        self._confirmed.set(self.up_to)

    # --- while active ---------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        after = self._confirmed.due(self._ledger.oms.last_execution, now_ns)
        if after is not None:
            self._ask(REQUEST, after)
        if self._confirmed.late(now_ns):
            text = (
                f"the venue has not confirmed the executions after {self.up_to}: one that was lost on the "
                "way would not be noticed; look whether execd and the venue answer"
            )
            self._context.alarm(ALARM, "critical", text)
        else:
            self._context.clear(ALARM)

    def told(self, listed: orders.Executions, new: int, now_ns: int) -> None:
        """One page of the list, of which `new` were not known: they had been lost."""
        if new:
            self._context.count("executions_found", new)
            self._context.event("executions.found", count=new, after=self.up_to)
        before = self._confirmed.up_to
        after = self._confirmed.told(report_check.list_end(listed.executions), now_ns)
        if after is not None:
            self._ask(REQUEST, after)
        elif self._confirmed.up_to != before:
            self._from_seq = self._ledger.journal.last_seq

    def stop(self) -> None:
        """No lead, no alarm of it."""
        self._context.clear(ALARM)

    def keep(self) -> None:
        """Once a second."""
        if self.up_to != self._kept:
            self._kept = up_to = self.up_to
            self._context.worker.run(lambda: _write(self._path, up_to), lambda _: None)


def _read(path: Path) -> int | None:
    """None: an earlier release kept none."""
    try:
        return max(0, int(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return 0


def _write(path: Path, up_to: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: the old number stays, and more is asked for
        files.replace(path, f"{up_to}\n".encode(), Durability.CRASH)
