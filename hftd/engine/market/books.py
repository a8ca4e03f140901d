"""bookd's state: one book for each instrument, fed by market frames, and what is to be published of them.
Pure: no clock, no socket.

A frame out of sequence, or of a new session, breaks every chain: all books are emptied and want a snapshot. A
gap in one instrument's chain does so for that one alone. Until its snapshot has come nothing but trades is
published of an instrument, and its status says so. Within one frame only the last best bid and offer of an
instrument is published; the ones before it are counted as conflated. A book by itself: engine/market/book.py.
"""

from __future__ import annotations

from typing import Any

from controlplane.errors import InvalidInput
from hftd.engine import fixed
from hftd.engine.market import bars, book
from hftd.wire import market, requests

_KINDS = {int(kind): kind.name.lower() for kind in market.Kind}
_DIFF, _SNAPSHOT, _TICKER, _TRADE = (
    int(market.Kind.DIFF),
    int(market.Kind.SNAPSHOT),
    int(market.Kind.TICKER),
    int(market.Kind.TRADE),
)
_INSTRUMENT, _BAR, _STATUS = int(market.Kind.INSTRUMENT), int(market.Kind.BAR), int(market.Kind.STATUS)
_EMPTY = (0, 0, 0, 0)


class InstrumentBook:
    """One instrument."""

    __slots__ = (
        "book",
        "counts",
        "instrument",
        "level_updates",
        "loss",
        "losses",
        "pending",
        "session",
        "top",
    )

    def __init__(self, instrument: requests.Instrument) -> None:
        self.instrument = instrument
        self.session = 0
        """In which it was introduced last."""
        self.book = book.Book()
        self.counts = dict.fromkeys(_KINDS, 0)
        self.level_updates = 0
        self.losses = 0
        """How often the venue's own messages proved the book wrong."""
        self.loss = ""
        """Why the last time, and by which message, for people. Empty when there was none since frames were
        lost or the feed began anew."""
        self.top = _EMPTY
        """Best bid and offer as published last, or pending."""
        self.pending: market.Message | None = None
        """The message whose change of the best has not been published yet."""

    @property
    def outcomes(self) -> dict[str, int]:
        return self.book.counts

    def plain(self) -> dict[str, Any]:
        bid, bid_quantity, ask, ask_quantity = map(fixed.text, self.book.best())
        return {
            "in_step": self.book.in_step,
            "bid": bid,
            "bid_quantity": bid_quantity,
            "ask": ask,
            "ask_quantity": ask_quantity,
            "last": self.book.last,
            "levels": self.book.levels,
            "counts": {_KINDS[kind]: n for kind, n in self.counts.items() if n},
            "level_updates": self.level_updates,
            **self.outcomes,
        }

    def trouble(self) -> str:
        """Why the book waits for a snapshot, for an operator; empty while it is in step."""
        return "" if self.book.in_step else self.loss or self.book.lost


class Books:
    def __init__(self, bar_ns: int) -> None:
        self.entries: dict[int, InstrumentBook] = {}
        self.bars = bars.Bars(bar_ns)
        self.session = 0
        self.sequence = 0
        """Of the next message expected; what lies before it has been taken."""
        self.out: list[bytes] = []
        """Packed messages to publish; the caller empties it after each frame."""
        self._moved: list[InstrumentBook] = []
        """Those whose best has changed in this frame."""
        self.wanted: set[int] = set()
        """Instruments whose book waits for a snapshot."""
        self.lost = self.messages = self.conflated = self.unknown = self.overflows = 0

    def __repr__(self) -> str:
        return (
            f"<Books {len(self.entries)} instruments, {len(self.wanted)} waiting, session {self.session} "
            f"at {self.sequence}>"
        )

    def configure(self, bar_ns: int) -> None:
        """What is published for it is in `out`."""
        self.out += [_packed_bar(bar) for bar in self.bars.relength(bar_ns)]

    def total(self, outcome: str) -> int:
        """Of all books, one of `book.COUNTED`."""
        return sum(entry.outcomes[outcome] for entry in self.entries.values())

    def plain(self) -> dict[str, Any]:
        return {entry.instrument.name: entry.plain() for entry in self.entries.values()}

    # --- in -------------------------------------------------------------------------------------------------

    def frame(self, data: bytes) -> bool:
        """Take one market frame; False when it began a new session or frames before it are missing: every
        chain is broken then.

        Raises:
            InvalidInput: it does not decode, or a message in it has a time that is none. What came before has
            been taken; the rest counts as lost with the next frame.
        """
        head = market.header(data)
        whole = head.session == self.session and head.sequence == self.sequence
        if not whole:
            self._broken(head)
        for message in market.messages(data):
            self.sequence += 1
            self._take(message)
        self._publish_tops()
        return whole

    def _broken(self, head: market.Frame) -> None:
        before = self.session
        if head.session == before:
            self.lost += max(0, head.sequence - self.sequence)
        else:
            self.out += [_packed_bar(bar) for bar in self.bars.resume()]
        self.session, self.sequence = head.session, head.sequence
        why = "messages of the feed were lost" if head.session == before else "the feed began anew"
        for number, entry in self.entries.items():
            entry.book.forget(why if entry.book.in_step else entry.book.lost)
            entry.loss = ""
            self._waits(number, entry)

    def _take(self, message: market.Message) -> None:
        receive_ns = message.receive_ns
        if not 0 <= receive_ns <= market.TIME_NS_MAX:
            raise InvalidInput(
                f"instrument {message.instrument}: received at {receive_ns} ns, which is no time"
            )
        self.messages += 1
        if receive_ns >= self.bars.due_ns:
            self.out += [_packed_bar(bar) for bar in self.bars.close(receive_ns)]
        number, kind = message.instrument, message.kind
        if kind == _INSTRUMENT:
            self._introduce(message)
            return
        entry = self.entries.get(number)
        if entry is None:
            self.unknown += 1
            return
        entry.counts[kind] = entry.counts.get(kind, 0) + 1
        if kind == _DIFF:
            self._diff(number, entry, message)
        elif kind == _TICKER:
            if (
                message.last == entry.book.last
                and message.bids
                and message.asks
                and not entry.book.quote(message.last, message.bids[0] + message.asks[0])
            ):
                self._lose(number, entry, message)
        elif kind == _TRADE and message.bids:
            price, quantity = message.bids[0]
            if not self.bars.trade(number, receive_ns, price, quantity):
                self.overflows += 1
            self.out.append(market.pack(message))
        elif kind == _SNAPSHOT:
            self._restore(number, entry, message)

    def _introduce(self, message: market.Message) -> None:
        try:
            instrument = requests.decode_instrument(message.payload)
        except InvalidInput:
            self.unknown += 1
            return
        entry = self.entries.get(message.instrument)
        if entry is None or entry.instrument != instrument:
            entry = self.entries[message.instrument] = InstrumentBook(instrument)
            self.bars.forget(message.instrument)
            self.out.append(market.pack(message))
            self.wanted.discard(message.instrument)
            self._waits(message.instrument, entry)
        entry.session = self.session
        entry.counts[_INSTRUMENT] += 1

    # --- books ----------------------------------------------------------------------------------------------

    def _diff(self, number: int, entry: InstrumentBook, message: market.Message) -> None:
        entry.level_updates += len(message.bids) + len(message.asks)
        outcome = entry.book.diff(
            message.first,
            message.last,
            message.previous,
            message.bids,
            message.asks,
            message.event_ns,
            message.receive_ns,
        )
        if outcome is book.APPLIED:
            self._look_at_top(entry, message)
        elif outcome is book.GAP or outcome is book.CROSSED:
            self._lose(number, entry, message)
        elif isinstance(outcome, book.Restored):
            if number not in self.wanted:
                self._say_loss(entry, message)
            self._regain(number, entry, message)

    def _restore(self, number: int, entry: InstrumentBook, message: market.Message) -> None:
        if isinstance(entry.book.apply(message), book.Restored):
            if number not in self.wanted:
                self._say_loss(entry, message)
            self._regain(number, entry, message)

    def _regain(self, number: int, entry: InstrumentBook, message: market.Message) -> None:
        if not entry.book.in_step:  # the diffs after the snapshot lost it again
            self._lose(number, entry, message)
            return
        self.wanted.discard(number)
        self.out.append(_packed_status(number, message.receive_ns, in_step=True))
        self._look_at_top(entry, message)

    def _lose(self, number: int, entry: InstrumentBook, message: market.Message) -> None:
        self._say_loss(entry, message)
        self._waits(number, entry)

    def _say_loss(self, entry: InstrumentBook, message: market.Message) -> None:
        entry.losses += 1
        when = f", event time {message.event_ns}" if message.event_ns else ""
        entry.loss = f"{entry.book.lost} (update id {message.last}, received at {message.receive_ns}{when})"

    def _waits(self, number: int, entry: InstrumentBook) -> None:
        entry.pending, entry.top = None, _EMPTY
        if number not in self.wanted:
            self.wanted.add(number)
            self.out.append(_packed_status(number, 0, in_step=False))

    def _look_at_top(self, entry: InstrumentBook, message: market.Message) -> None:
        top = entry.book.best()
        if top != entry.top:
            entry.top = top
            if entry.pending is None:
                self._moved.append(entry)
            else:
                self.conflated += 1
            entry.pending = message

    # --- out ------------------------------------------------------------------------------------------------

    def _publish_tops(self) -> None:
        for entry in self._moved:
            cause = entry.pending
            if cause is not None:
                entry.pending = None
                self.out.append(
                    _packed_top(cause.instrument, entry, cause.receive_ns, cause.event_ns, cause.origin_ns)
                )
        self._moved.clear()

    def marks(self) -> list[bytes]:
        """TOP messages of all books in step as they are now, caused by no tick; STATUS of the others."""
        return [
            _packed_status(number, 0, in_step=False)
            if number in self.wanted
            else _packed_top(number, entry, 0, 0, 0)
            for number, entry in self.entries.items()
        ]

    def reference(self) -> list[bytes]:
        """INSTRUMENT messages of all; repeated each second for those who came late."""
        kind = market.Kind.INSTRUMENT
        return [
            market.pack(
                market.Message(
                    number, kind, 0, 0, 0, 0, 0, 0, 0, 0, [], [], requests.encode_instrument(entry.instrument)
                )
            )
            for number, entry in self.entries.items()
        ]

    def statuses(self) -> list[bytes]:
        """STATUS messages of all."""
        return [_packed_status(number, 0, in_step=number not in self.wanted) for number in self.entries]


def _packed_top(number: int, entry: InstrumentBook, receive_ns: int, event_ns: int, origin_ns: int) -> bytes:
    return market.pack_top(number, receive_ns, event_ns, origin_ns, entry.book.last, entry.top)


def _packed_status(number: int, receive_ns: int, *, in_step: bool) -> bytes:
    return market.pack(
        market.Message(
            number, _STATUS, market.IN_STEP if in_step else 0, receive_ns, 0, 0, 0, 0, 0, 0, [], []
        )
    )


def _packed_bar(bar: bars.Bar) -> bytes:
    levels = [(bar.open, bar.high), (bar.low, bar.close), (bar.volume, bar.trades)]
    end_ns = bar.begin_ns + bar.length_ns
    return market.pack(
        market.Message(bar.instrument, _BAR, 0, end_ns, bar.begin_ns, 0, 0, 0, 0, bar.length_ns, levels, [])
    )
