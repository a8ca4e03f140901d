"""What this member did in an epoch that it has lost and nobody else knows of, on its way to auditd.

A leader that is killed may have sent an order that neither auditd nor a standby had heard of. When it is
back, those records are the tail that it sets aside, in a file `aside-*.unaudited` (storage/journal.py). They
are sent under the token of their own epoch, over a link of their own, so that the log shows who placed the
order: auditd takes what an order manager did before it was deposed, and what comes twice it writes once.

The records before the tail are the new leader's to send, and auditd takes those of one epoch in their order;
so the tail waits until auditd has them. The file keeps it over every restart until auditd has all of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from controlplane.errors import InvalidInput
from hftd import runtime
from hftd.daemons.omsd import receivers
from hftd.daemons.omsd.signature import Signature
from hftd.engine.orders import oms
from hftd.storage import journal as journals
from hftd.wire import codec, orders


class AuditTail:
    def __init__(
        self,
        context: runtime.Context,
        service: str,
        journal: journals.Journal,
        signature: Signature,
        audited: Callable[[], int],
        resend_ns: int,
    ) -> None:
        """`audited`: up to which sequence auditd has this group's journal, as far as we know."""
        self._context, self._journal, self._signature = context, journal, signature
        self._audited, self.resend_ns = audited, resend_ns
        self.link = receivers.ReceiverLink(context, service, "events", self._attach)
        self._tails: deque[tuple[Path, deque[journals.SegmentRecord], int]] = deque()
        """File, what of it auditd has not acknowledged, and how many there were."""
        self._sent_seq = 0
        """The last of the batch that is on its way; 0 when none is."""
        self._sent_ns = 0
        for path in journal.asides():
            self.add(path, journal.read_aside(path))

    def add(self, path: Path, records: Iterable[journals.SegmentRecord]) -> None:
        """This tail was set aside."""
        waiting = deque(records)
        self._tails.append((path, waiting, len(waiting)))

    @property
    def waiting(self) -> int:
        """Records that auditd has not acknowledged."""
        return sum(len(records) for _, records, _ in self._tails)

    def _attach(self, link: bytes) -> orders.Attach:
        term = self._tails[0][1][-1].epoch  # of the newest record: auditd takes older ones under it, too
        return self._signature.attach_for(term, link)

    def tick(self, now_ns: int) -> None:
        """Every few ms: one batch at a time, and again when it was not acknowledged."""
        while self._tails and not self._tails[0][1]:
            path, _, count = self._tails.popleft()
            self._journal.keep_aside(path)
            self._context.event("audit.tail", records=count, file=path.stem)
        if not self._tails or (self._sent_seq and now_ns - self._sent_ns < self.resend_ns):
            return
        records = self._tails[0][1]
        if self._audited() < records[0].sequence - 1 or not self.link.attach():
            return
        self._sent_ns = now_ns
        for record in list(islice(records, receivers.CHUNK)):
            try:
                message = oms.decode_journaled(record.payload)
            except InvalidInput as exc:
                self._context.undecodable(str(exc))
                if record is records[0]:
                    records.popleft()
                continue
            told = oms.audited(self._context.service, record.epoch, record.sequence, message)
            if not self.link.dealer.send(codec.encode(told)):
                return
            self._sent_seq = record.sequence

    def from_audit(self, frame: bytes) -> None:
        match receivers.decode(frame):
            case orders.AuditSeen() as seen if self._tails:
                records = self._tails[0][1]
                while records and records[0].sequence <= min(seen.up_to, self._sent_seq):
                    records.popleft()
                self._sent_seq = 0
            case _:
                pass  # our token is an old one, and is refused; what is not acknowledged goes out again
