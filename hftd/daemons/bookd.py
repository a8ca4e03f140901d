"""bookd: rebuilds order books from marketd's stream and publishes top of book, trades and bars.

Wiring only. What a book is and what is published of it: engine/market/books.py and engine/market/book.py.
What comes in and goes out: wire/market.py. How the loop waits, beats and stops: runtime/loop.py. A gap is
answered by asking marketd for a snapshot, again until it is here; credit for what has been taken goes back to
marketd and paces a replay. Next: daemons/strategyd.py.
"""

from __future__ import annotations

import time

from controlplane.errors import InvalidInput
from hftd import bus, runtime
from hftd.engine.market import book, books, silence
from hftd.settings import BookSettings
from hftd.wire import codec, control, market, requests

MARKS_EVERY_S = 0.25
"""The `marks` stream: every book's best, for those who judge and value (riskd, positiond) and must not be
woken by each tick."""
CREDIT_EVERY_S = 0.25
"""Said again at least this often: a lost one delays a replay by no more, and marketd knows that we are
there."""
BOOK_WAITS_S = 2
"""A book without a snapshot for longer than this is an alarm, also when no message proved it wrong: one that
is only beginning has it in a part of a second."""
BOOK_LOST_S = 3
"""So long may a book that has a chain of diffs wait for its snapshot before it is lost, and the site not
healthy: live, the answer takes a part of a second, and is asked for again every `snapshot_retry_s`."""
CREDIT_SHARE = 8
"""Credit goes out when this part of the window has been used up: few messages, and the publisher never runs
dry."""


def build(context: runtime.Context, settings: BookSettings) -> runtime.Loop:
    return Bookd(context, settings).loop


class Bookd:
    def __init__(self, context: runtime.Context, settings: BookSettings) -> None:
        self._context, self._settings = context, settings
        self._books = books.Books(int(settings.bar_s * 1e9))
        self._batch = market.Batch(time.time_ns())
        self._granted = 0
        """Sequence number in the market session up to which credit was given."""
        self._asked: set[int] = set()
        """Instruments whose snapshot has been asked for since the last retry."""
        self._waits_s: dict[int, int] = {}
        """Instrument -> seconds for which its book has waited for a snapshot."""
        self._losses_said: dict[int, int] = {}
        self._alarmed: set[str] = set()
        """Names of the books that wait, as an alarm says."""
        self._silence = silence.Silence()
        """Of the market stream: reference data comes on it once a second, whatever happens."""
        self._tops = bus.publish.Publisher(context.bind("tops"))
        self._marks = bus.publish.Publisher(context.bind("marks"))
        self._marked = market.Batch(time.time_ns())
        self._market = bus.publish.Subscriber()
        self._requests = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.loop = loop = runtime.Loop(context)
        loop.on(self._market.socket, self._on_market)
        loop.on(self._requests.socket, self._on_answer)
        loop.on_peers(settings.market, self._on_marketd)
        loop.every(CREDIT_EVERY_S, self._give_credit)
        self._retries = loop.every(settings.snapshot_retry_s, self._ask_again)
        loop.every(1.0, self._each_second)
        loop.every(MARKS_EVERY_S, self._mark)
        loop.before_wait(self._flush)
        loop.on_ask("books", lambda _: self._books.plain())
        loop.on_settings(self.configure)
        context.set_ready(False, f"nothing has come from {settings.market}")

    def configure(self, settings: BookSettings) -> None:
        """Credit that goes beyond a smaller window is taken back, for what marketd has not sent."""
        self._settings = settings
        self._retries.set(settings.snapshot_retry_s)
        self._books.configure(int(settings.bar_s * 1e9))
        self._publish(self._books.out)
        self._flush()
        self._give_credit(0)

    def _on_marketd(self, peers: list[control.Peer]) -> None:
        self._market.connect(self._context.endpoint(self._settings.market, "market"))
        self._requests.connect(self._context.endpoint(self._settings.market, "requests"))

    # --- in -------------------------------------------------------------------------------------------------

    def _on_market(self, frame: bytes) -> None:
        self._silence.heard()
        state = self._books
        session, lost = state.session, state.lost
        try:
            if not state.frame(frame):
                if state.session != session:
                    self._granted = 0
                    self._context.event("market.session", session=state.session)
                else:
                    self._context.event("market.lost", messages=state.lost - lost)
        except InvalidInput as exc:
            self._context.undecodable(str(exc))
        if state.out:
            self._publish(state.out)
            # At the end of each frame, not of all that wait: a strategy that trades on it must not wait for
            # what comes after.
            self._flush()
        if (
            state.sequence + self._settings.credit_window - self._granted
            > self._settings.credit_window // CREDIT_SHARE
        ):
            self._give_credit(0)
        if state.wanted:
            self._ask_for_snapshots()
        if not self._context.ready and state.entries:
            self._context.set_ready(True)

    def _on_answer(self, frame: bytes) -> None:
        """Nothing comes back here that the market stream does not carry; marketd's list of instruments is not
        needed twice.
        """

    def _give_credit(self, _: int) -> None:
        state = self._books
        if not state.session:
            return
        cumulative = state.sequence - 1 + self._settings.credit_window
        if self._requests.send(
            codec.encode(requests.Credit(*self._context.head(), state.session, cumulative))
        ):
            self._granted = cumulative

    def _ask_for_snapshots(self) -> None:
        for number in self._books.wanted - self._asked:
            if self._requests.send(codec.encode(requests.SnapshotWanted(*self._context.head(), number))):
                self._asked.add(number)

    def _ask_again(self, _: int) -> None:
        self._asked.clear()
        self._ask_for_snapshots()

    # --- out ------------------------------------------------------------------------------------------------

    def _publish(self, packed: list[bytes]) -> None:
        add, send = self._batch.add, self._tops.send
        for one in packed:
            full = add(one)
            if full is not None:
                send(full)
        packed.clear()

    def _flush(self) -> None:
        rest = self._batch.flush()
        if rest is not None:
            self._tops.send(rest)

    def _mark(self, _: int) -> None:
        """Reference data first, so that a reader that came just now understands what follows."""
        for packed in self._books.reference() + self._books.marks():
            full = self._marked.add(packed)
            if full is not None:
                self._marks.send(full)
        rest = self._marked.flush()
        if rest is not None:
            self._marks.send(rest)

    def _each_second(self, now_ns: int) -> None:
        state, context = self._books, self._context
        self._look_for_silence(now_ns)
        self._publish(state.reference())
        self._publish(state.statuses())
        counters = context.counters
        counters["messages"], counters["lost"], counters["conflated"] = (
            state.messages,
            state.lost,
            state.conflated,
        )
        for outcome in book.COUNTED:
            counters[outcome] = state.total(outcome)
        counters["unknown_instrument"], counters["bar_overflows"] = state.unknown, state.overflows
        counters["late_trades"] = state.bars.late
        waiting = [entry.instrument.name for number, entry in state.entries.items() if number in state.wanted]
        context.gauge("books_in_step", len(state.entries) - len(waiting))
        context.gauge("books_waiting", len(waiting))
        standing = self._alarmed
        self._alarmed = {
            entry.instrument.name
            for number, entry in state.entries.items()
            if self._say_of_book(number, entry)
        }
        for name in standing - self._alarmed:
            context.clear(f"book:{name}")

    def _look_for_silence(self, now_ns: int) -> None:
        context, name = self._context, self._settings.market
        if not self._silence.look(now_ns, listening=context.ready):
            context.clear("market_silent")
            return
        text = (
            f"{name}: nothing of its market stream has come for {self._silence.silent_ns // 1_000_000_000} "
            "s, not even reference data: books are as old, and nothing new is traded on them: hftctl logs of "
            f"the instance of {name}"
        )
        context.alarm("market_silent", "critical", text, subject=name)

    def _say_of_book(self, number: int, entry: books.InstrumentBook) -> bool:
        """Once a second: an event for what was lost meanwhile, an alarm while the book waits (True)."""
        context, name = self._context, entry.instrument.name
        lost = entry.losses - self._losses_said.get(number, 0)
        if lost > 0:
            context.event("book.lost", instrument=name, times=lost, why=entry.loss)
        self._losses_said[number] = entry.losses
        if number not in self._books.wanted or entry.session != self._books.session:
            self._waits_s.pop(number, None)
            return False
        waits_s = self._waits_s[number] = self._waits_s.get(number, -1) + 1
        if not entry.loss and waits_s < BOOK_WAITS_S:
            return False
        text = (
            f"{name}: its book is not in step: {entry.trouble()}; no best bid and offer of it is published, "
            "so nothing trades on it; it comes back with the venue's next snapshot, which is asked for every "
            f"{self._settings.snapshot_retry_s:g} s"
        )
        # Of an instrument that is traded and has no depth in the feed there is no book to lose.
        lost = waits_s >= BOOK_LOST_S and entry.counts[int(market.Kind.DIFF)] > 0
        context.alarm(f"book:{name}", "critical" if lost else "warning", text, subject=name)
        return True
