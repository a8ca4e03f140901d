"""omsd's journal and the orders that it makes: nothing changes an order that is not written here first.

Decides whether there is room. A full journal, or one that cannot be synced, takes no new order and
acknowledges nothing; about once a second it is tried whether there is room again (`found_room`). The
journal's files: storage/journal.py; what a record does to an order: engine/orders/oms.py.
"""

from __future__ import annotations

from controlplane.model import in_range
from hftd import runtime
from hftd.daemons.omsd.signature import Signature
from hftd.engine.orders import oms
from hftd.settings import OrdersSettings
from hftd.storage import heights
from hftd.storage import journal as journals
from hftd.wire import codec


class Ledger:
    def __init__(self, context: runtime.Context, settings: OrdersSettings, signature: Signature) -> None:
        self._context, self._settings, self._signature = context, settings, signature
        self.journal = journals.Journal(
            context.journal_dir, segment_bytes=settings.segment_bytes, unsynced_max=settings.unsynced_max
        )
        self._heights = heights.Heights({}, context.store_tokens.highest)
        self.full = False
        """Nothing can be written: what comes is not taken, and comes again."""
        self.oms = self._replayed()

    def _replayed(self) -> oms.Oms:
        settings = self._settings
        bounds = oms.Bounds(
            open_orders_max=settings.open_orders_max,
            client_order_ids_max=settings.client_order_ids_max,
            closed_orders_max=settings.closed_orders_max,
            executions_max=settings.executions_max,
        )
        payloads = (record.payload for record in self.journal.read())
        return oms.replayed(self._context.service, settings.risk, bounds, self._believes, payloads)

    def _believes(self, token: oms.Rank) -> bool:
        """Of riskd. Where the store's word has not come yet the range alone counts, so that it is not waited
        for.
        """
        if self._context.store_tokens.highest(token.group) is None:
            return in_range(token.incarnation, token.epoch)
        return self._heights.believes(token)

    def replay(self) -> None:
        """The journal became shorter (a standby set its tail aside): build the orders anew."""
        self.oms = self._replayed()

    def follow(self, message: oms.Journaled) -> None:
        """Take a record of the leader that is in our journal now."""
        self.oms.apply(message)

    @property
    def takes_orders(self) -> bool:
        """Room for something new, and the disk keeps up."""
        return not (self.full or self.journal.behind)

    def write(
        self, message: oms.Journaled, payload: bytes | None = None, sequence: int | None = None
    ) -> bool:
        """Journal a message (`payload`: its bytes, when they are at hand). False when there is no room, and
        then nothing has changed. The caller applies it to the orders.
        """
        try:
            self.journal.append(self._signature.term, payload or codec.encode(message), sequence)
        except journals.JournalFull as exc:
            if not self.full:
                self._say_full(str(exc))
                self._context.event("journal.full", why=str(exc))
            return False
        return True

    def _say_full(self, why: str) -> None:
        self.full = True
        self._context.alarm(
            "journal_full", "critical", f"no new orders are taken: {why}; make room on the journal's disk"
        )

    # --- time -----------------------------------------------------------------------------------------------

    def found_room(self) -> bool:
        """Look whether a full journal can be written again; True when it has just become so."""
        standing = self.full or "journal_full" in self._context.alarms
        if not standing or not self.journal.recovered():
            return False
        self.full = False
        self._context.clear("journal_full")
        self._context.event("journal.room")
        return True

    def each_second(self, *, leading: bool, audited: int) -> None:
        """Drop old segments, and say how the disk does. `audited`: the last sequence that auditd has."""
        context, journal = self._context, self.journal
        journal.prune(self._settings.segments_max, audited if leading else None)
        if journal.behind:
            text = (
                f"no new orders are taken: {journal.unsynced} records are not on the disk yet, the bound is "
                f"{self._settings.unsynced_max}"
            )
            context.alarm("journal_behind", "warning", text)
        else:
            context.clear("journal_behind")
        if journal.sync_error and leading and not self.full:
            self._say_full(f"the journal cannot be synced ({journal.sync_error})")
        context.gauge("journal_unsynced", journal.unsynced)
        context.gauge("journal_seq", journal.last_seq)
        context.gauge("open_orders", len(self.oms.orders))
        if self.oms.illegal:
            context.counters["illegal_moves"] = self.oms.illegal
