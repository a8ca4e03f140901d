"""omsd's journal and the orders that it makes: nothing changes an order that is not written here first.

Decides whether there is room. A full journal, or one that cannot be synced, takes no new order and
acknowledges nothing; about once a second it is tried whether there is room again (`found_room`). Nothing here
waits for the disk once omsd runs: the journal's thread does. The journal's files: storage/journal.py; what a
record does to an order: engine/orders/oms.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

from controlplane.model import in_range
from hftd import runtime
from hftd.daemons.omsd.signature import Signature
from hftd.engine.orders import oms
from hftd.settings import OrdersSettings
from hftd.storage import heights
from hftd.storage import journal as journals
from hftd.wire import codec

TRY_NS = 1_000_000_000
"""While there is no room, it is tried this often whether there is some again."""


class Ledger:
    def __init__(self, context: runtime.Context, settings: OrdersSettings, signature: Signature) -> None:
        self._context, self._settings, self._signature = context, settings, signature
        self.journal = journals.Journal(
            context.journal_dir,
            segment_bytes=settings.segment_bytes,
            unsynced_max=settings.unsynced_max,
            replicated=True,
        )
        if self.journal.torn_bytes:
            context.event("journal.torn", bytes=self.journal.torn_bytes, after=self.journal.last_seq)
        if self.journal.lost is not None:
            context.event("journal.lost", what=str(self.journal.lost), after=self.journal.last_seq)
        self._say_damaged()
        self._heights = heights.Heights({}, context.store_tokens.highest)
        self.full = False
        """Nothing can be written: what comes is not taken, and comes again."""
        self._tried_ns = 0
        self.oms = self._replayed(self.journal.read())

    def configure(self, settings: OrdersSettings) -> None:
        self._settings = settings
        self.journal.segment_bytes, self.journal.unsynced_max = settings.segment_bytes, settings.unsynced_max
        self.oms.bounds = _bounds(settings)

    def _replayed(self, records: Iterable[journals.SegmentRecord]) -> oms.Oms:
        settings = self._settings
        payloads = (record.payload for record in records)
        return oms.replayed(self._context.service, settings.risk, _bounds(settings), self._believes, payloads)

    def _believes(self, token: codec.AnyToken) -> bool:
        """Of riskd. Where the store's word has not come yet the range alone counts, so that it is not waited
        for.
        """
        if self._context.store_tokens.highest(token.group) is None:
            return in_range(token.incarnation, token.epoch)
        return self._heights.believes(token)

    def set_aside(self, after: int) -> Future[journals.SetAside[oms.Oms]] | None:
        """Begin to set aside what is in the journal above `after` (a standby's tail), and to build the orders
        anew from what is left, in the journal's thread. None when there is nothing.
        """
        return self.journal.set_aside(after, self._replayed)

    def shorten(self, answer: Future[journals.SetAside[oms.Oms]]) -> journals.SetAside[oms.Oms]:
        """The answer is done: these are the orders now. Raises what Journal.set_aside says."""
        found = self.journal.shorten(answer)
        self.oms = found.rebuilt
        self.oms.bounds = _bounds(self._settings)  # they may have changed meanwhile
        return found

    def follow(self, message: oms.Journaled) -> None:
        """Take a record of the leader that is in our journal now."""
        self.oms.apply(message)
        self._followed()

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

    # --- damage ---------------------------------------------------------------------------------------------

    def _say_damaged(self) -> None:
        lost = self.journal.damage
        if lost is None:
            return
        self._context.event("journal.damaged", what=str(lost), records=lost.records, bytes=lost.bytes)
        text = (
            f"{lost}; they are kept in {', '.join(lost.kept)} and are not in use. This instance does not "
            "lead before it has them from a leader. If no other member can lead, what they said is to be had "
            f"from the venue alone: delete {self.journal.damage_note} and restart the instance"
        )
        self._context.alarm("journal_damaged", "critical", text)

    def _followed(self) -> None:
        """A record of the leader was taken: once past what was lost, the journal is whole again."""
        lost = self.journal.damage
        if lost is not None and self.journal.last_seq >= lost.last_seq:
            self.journal.healed()
            self._context.clear("journal_damaged")
            self._context.event("journal.healed", last_seq=self.journal.last_seq)

    # --- time -----------------------------------------------------------------------------------------------

    def found_room(self, now_ns: int) -> bool:
        """Each tick: look whether a full journal can be written again; True when it has just become so."""
        if not (self.full or "journal_full" in self._context.alarms):
            return False
        if not self.journal.trying:
            if now_ns - self._tried_ns < TRY_NS:
                return False
            self._tried_ns = now_ns
        if not self.journal.recovered():
            return False
        self.full = False
        self._context.clear("journal_full")
        self._context.event("journal.room")
        return True

    def each_second(self, *, leading: bool, audited: int) -> None:
        """Drop old segments, and say how the disk does. `audited`: the last sequence that auditd has."""
        context, journal = self._context, self.journal
        journal.prune(self._settings.segments_max, audited)
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


def _bounds(settings: OrdersSettings) -> oms.Bounds:
    return oms.Bounds(
        open_orders_max=settings.open_orders_max,
        client_order_ids_max=settings.client_order_ids_max,
        closed_orders_max=settings.closed_orders_max,
        executions_max=settings.executions_max,
    )
