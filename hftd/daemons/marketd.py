"""marketd: reads the venue's feed, normalises it and publishes it with sequence numbers, no faster than its
readers allow.

Wiring only. What a line becomes: venues/intake.py; what is said of one that does not decode:
venues/bad_lines.py. How far it may go: engine/market/credit.py. What comes in and goes out: wire/feed.py and
wire/market.py; what is asked and answered: wire/requests.py. A new session of the feed begins a new session
of ours, so that every reader resynchronises; a snapshot comes from the venue and goes out in sequence with
the rest. Next: daemons/bookd.py.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from controlplane.errors import InvalidInput
from hftd import bus, runtime
from hftd.engine.market import credit, silence
from hftd.settings import MarketSettings
from hftd.venues import bad_lines, base, intake, reference, replay
from hftd.wire import codec, control, feed, market, requests

REFERENCE_EVERY_S = 1.0
ASK_EVERY_S = 0.25
"""Unanswered questions to the venue are asked again this often."""
FEED_HWM = 16
"""Feed frames that wait unread; beyond it the venue stops. 16 x 64 lines is a burst, not a backlog."""
LONG_LINE_BYTES = 1_000
"""A diff of some twenty levels or more: bookd may begin on it while the next line is decoded. On the recorded
tape one line in thirty-five."""
LINES_A_TURN = 1_024
"""Read from files before the sockets get their turn."""


def build(context: runtime.Context, settings: MarketSettings) -> runtime.Loop:
    return Market(context, settings).loop


class Market:
    def __init__(self, context: runtime.Context, settings: MarketSettings) -> None:
        self._context, self._settings = context, settings
        self._intake = intake.Intake(())
        self._batch = market.Batch(0)
        self._before = 0
        """Messages of earlier sessions of this process."""
        self._tallies_before: Counter[str] = Counter()
        """The same of what was skipped, came twice or never came."""
        self._credits = credit.Credits(int(settings.reader_silence_s * 1e9))
        self._held: deque[tuple[int, bytes]] = deque()
        """Feed frames read but not allowed out yet, with the time they were read; at most one burst of the
        loop."""
        self._feed_reader = feed.Reader()
        self._silence = silence.Silence()
        """Of the feed."""
        self._asked_ns: dict[int, int] = {}
        """Instrument -> when its snapshot was asked for."""
        self._bad = bad_lines.BadLines()
        self._lines: Iterator[replay.Line | replay.BadLine] | None = None
        self._tape: replay.Tape | None = None
        self._ended = False
        self._publisher = bus.publish.Publisher(context.bind("market"))
        self._requests = bus.link.Router(context.bind("requests"))
        self._feed = bus.pipeline.Pull(hwm=FEED_HWM)
        self._snapshots = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.loop = loop = runtime.Loop(context)
        loop.on_router(self._requests.socket, self._on_request)
        loop.on(self._snapshots.socket, self._on_answer)
        loop.on_peers(settings.feed, self._on_venue)
        loop.every(REFERENCE_EVERY_S, self._each_second)
        loop.every(ASK_EVERY_S, self._ask_for_instruments)
        loop.on_ask("counts", self._counts)
        if settings.files:
            self._open(settings.files)
            loop.before_wait(self._read_files)
        else:
            loop.on(self._feed.socket, self._on_feed)
            context.set_ready(False, f"{settings.feed} has not said which instruments it has")
        loop.before_wait(self._flush)
        loop.on_settings(self.configure)

    def configure(self, settings: MarketSettings) -> None:
        self._settings = settings
        self._credits.silence_ns = int(settings.reader_silence_s * 1e9)

    # --- the venue's feed -----------------------------------------------------------------------------------

    def _on_venue(self, peers: list[control.Peer]) -> None:
        context, service = self._context, self._settings.feed
        if self._feed.endpoint:
            self._feed.connect(context.endpoint(service, "feed"))
        self._snapshots.connect(context.endpoint(service, "snapshots"))
        if not self._settings.files and not peers:
            context.set_ready(False, f"{service} is not there")
        elif self._intake.instruments:
            context.set_ready(True)
        self._ask_for_instruments(0)

    def _on_feed(self, frame: bytes) -> None:
        self._silence.heard()
        self._held.append((time.monotonic_ns(), frame))
        if len(self._held) == 1:
            self._advance()

    def _advance(self) -> None:
        """Let out what was held, as far as it is allowed; read on when nothing is held any more."""
        held, credits = self._held, self._credits
        while held and self._batch.sequence <= credits.up_to:
            if not self._publish_lines(*held[0]):
                break
            held.popleft()
        if held:
            self.loop.pause(self._feed.socket)
        else:
            self.loop.resume(self._feed.socket)

    def _publish_lines(self, read_ns: int, frame: bytes) -> bool:
        """False when the frame has to wait: it is of a new session, and its instruments are not known yet."""
        context = self._context
        try:
            head = feed.header(frame)
            if self._feed_reader.is_new_session(head):
                context.event("feed.session", session=head.session)
                self._take_in(())
                self._ask_for_instruments(0)
                return False
            expected = self._feed_reader.expected
            if not self._feed_reader.follows(head):
                context.count("lost", max(0, head.sequence - expected))
                context.event("feed.gap", expected=expected, found=head.sequence)
            for line in feed.lines(frame):
                self._publish(line.instrument, line.raw, line.receive_ns, read_ns)
                if len(line.raw) > LONG_LINE_BYTES:
                    self._flush()
            self._flush()
        except InvalidInput as exc:
            context.undecodable(str(exc))
        return True

    def _publish(self, instrument: int, raw: bytes, receive_ns: int, read_ns: int, where: str = "") -> None:
        packed = self._intake.line(instrument, raw, receive_ns, read_ns)
        if isinstance(packed, bytes):
            full = self._batch.add(packed)
            if full is not None:
                self._publisher.send(full)
        elif packed is not None:
            self._undecodable(instrument, packed, where)

    def _undecodable(self, instrument: int, why: base.Undecodable, where: str) -> None:
        known = self._intake.instruments.get(instrument)
        name = known.name if known else "unknown instruments"
        alarm = self._bad.take(name, f"{where}{why.reason}", time.monotonic_ns())
        self._context.count("undecodable")
        self._context.alarm(alarm.id, "warning", alarm.text, subject=alarm.subject)

    def _flush(self) -> None:
        rest = self._batch.flush()
        if rest is not None:
            self._publisher.send(rest)

    # --- sessions -------------------------------------------------------------------------------------------

    def _begin(self, instruments: Sequence[requests.Instrument]) -> None:
        """A new session: readers forget what they had of the old one. Its reference data goes out before any
        credit.
        """
        self._flush()
        self._before += self._batch.sequence - 1
        self._take_in(instruments)
        session = time.time_ns()
        self._batch = market.Batch(session)
        self._credits.begin(session)
        self._asked_ns.clear()
        self._context.event("market.session", session=session, instruments=len(instruments))
        self._say_reference()
        self._context.set_ready(True)

    def _take_in(self, instruments: Sequence[requests.Instrument]) -> None:
        self._tallies_before.update(self._intake.tallies())
        self._intake = intake.Intake(instruments)

    def _say_reference(self) -> None:
        for packed in self._intake.reference(time.time_ns()):
            full = self._batch.add(packed)
            if full is not None:
                self._publisher.send(full)
        self._flush()

    def _ask_for_instruments(self, _: int) -> None:
        if not self._intake.instruments and self._snapshots.endpoint:
            self._snapshots.send(codec.encode(requests.InstrumentsWanted(*self._context.head())))

    # --- questions ------------------------------------------------------------------------------------------

    def _on_request(self, identity: bytes, frame: bytes) -> None:
        asked = requests.decode_asked(frame)
        match asked:
            case requests.Credit():
                if self._credits.grant(asked.source, asked.session, asked.cumulative, time.monotonic_ns()):
                    # Not before somebody reads: with nobody at the other end of its pipe the venue's tape
                    # does not begin.
                    self._feed.connect(self._context.endpoint(self._settings.feed, "feed"))
                if self._held:
                    self._advance()
            case requests.SnapshotWanted():
                self._want_snapshot(asked.instrument)
            case requests.InstrumentsWanted():
                instruments = list(self._intake.instruments.values())
                self._requests.send(
                    identity, codec.encode(requests.Instruments(*self._context.head(), instruments))
                )

    def _want_snapshot(self, instrument: int) -> None:
        now_ns = time.monotonic_ns()
        # Several readers, or one that asks again, cost the venue one answer.
        if (
            instrument not in self._intake.instruments
            or now_ns - self._asked_ns.get(instrument, 0) < ASK_EVERY_S * 1e9 / 2
        ):
            return
        if self._snapshots.send(codec.encode(requests.SnapshotWanted(*self._context.head(), instrument))):
            self._asked_ns[instrument] = now_ns
            self._context.count("snapshots_wanted")

    def _on_answer(self, frame: bytes) -> None:
        answer = requests.decode_answered(frame)
        match answer:
            case requests.Instruments() if answer.instruments and not self._intake.instruments:
                self._begin(requests.checked(answer.instruments))
                if self._held:
                    self._advance()
            case requests.SnapshotFrame():
                # In sequence with the rest and without waiting for credit: the reader that waits for it gives
                # none until it is here.
                self._publish(
                    answer.instrument, answer.raw, answer.receive_ns, time.monotonic_ns(), "snapshot: "
                )

    # --- files instead of a feed ----------------------------------------------------------------------------

    def _open(self, files: tuple[str, ...]) -> None:
        known = reference.of(self._settings.instruments, self._settings.exchange_info)
        self._tape = replay.Tape([Path(file) for file in files], known)
        self._lines = iter(self._tape)
        self._begin(self._tape.instruments)

    def _read_files(self) -> None:
        lines, credits, batch, now_ns = self._lines, self._credits, self._batch, time.monotonic_ns
        if lines is None or self._ended or batch.sequence > credits.up_to:
            return
        for _ in range(LINES_A_TURN):
            line = next(lines, None)
            if line is None:
                self._ended = True
                self._context.event("tape.ended", messages=batch.sequence - 1)
                self._context.alarm("tape:end", "info", "the capture files have been read to their end")
                return
            if isinstance(line, replay.BadLine):
                self._context.count("undecodable")
                self._context.alarm(
                    f"tape:{line.file}",
                    "warning",
                    f"{line.file} line {line.number}: {line.reason}",
                    subject=line.file,
                )
                continue
            self._publish(
                line.instrument, line.raw, line.receive_ns, now_ns(), f"{line.file} line {line.number}: "
            )
            if batch.sequence > credits.up_to:
                return
        self.loop.wake_at(0)

    # --- what it says of itself -----------------------------------------------------------------------------

    def _each_second(self, now_ns: int) -> None:
        context, settings = self._context, self._settings
        context.counters["messages"] = self._before + self._batch.sequence - 1
        missing = context.counters.get("trades_missing", 0)
        context.counters.update(self._tallies_before + Counter(self._intake.tallies()))
        missing = context.counters.get("trades_missing", 0) - missing
        if missing > 0:
            context.event("trades.missing", trades=missing)
        for reader in self._credits.forget_silent(now_ns):
            context.event("reader.gone", reader=reader)
        if self._intake.instruments:
            self._say_reference()
        for name, offset in self._intake.offsets.items():
            median_ns = offset.median_ns()
            if median_ns is None:
                continue
            context.gauge(f'clock_offset_seconds{{market="{name}"}}', median_ns / 1e9)
            if median_ns < -settings.clock_offset_max_ms * 1e6:
                text = (
                    f"{name}: received {-median_ns / 1e6:.0f} ms before the venue's event time (median): "
                    "one of the clocks is wrong"
                )
                context.alarm(f"clock_offset:{name}", "warning", text, subject=name)
            else:
                context.clear(f"clock_offset:{name}")
        self._look_for_silence(now_ns)
        for id in self._bad.over(now_ns):
            context.clear(id)

    def _look_for_silence(self, now_ns: int) -> None:
        """Of a feed that we read: what our own readers hold back is not silent. A feed whose instruments are
        not known stands, whatever it sends.
        """
        context, name = self._context, self._settings.feed
        credit_left = self._batch.sequence <= self._credits.up_to
        if not self._silence.look(now_ns, listening=bool(self._feed.endpoint) and credit_left):
            context.clear("feed_silent")
            return
        what = "it does not say which instruments it has" if self._held else "not even a beat has come"
        text = (
            f"{name}: its feed is silent: {what} for {self._silence.silent_ns // 1_000_000_000} s; books and "
            f"prices grow old, and nothing new is traded on them: hftctl logs of the instance of {name}"
        )
        context.alarm("feed_silent", "critical", text, subject=name)

    def _counts(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "session": self._batch.session,
            "sequence": self._batch.sequence - 1,
            "credit": self._credits.up_to,
            "held_frames": len(self._held),
            "ended": self._ended,
            "instruments": self._intake.totals(),
        }
