"""simd: the venue. It replays a tape (or a synthetic market) to marketd and matches our orders against it.

Wiring only: a line that has left goes to the venue, what the venue then says goes to the order desk. When a
line leaves: tape.py. What the venue does with lines and orders: venues/sim.py. Who may give orders and what
is said back: session.py. Snapshots: snapshots.py. What is said of a damaged tape: venues/sim_faults.py. What
outlives this process, under `<site-dir>/simd`: journal.py. After a crash the tape goes on where it was under
a new session; after a stop it begins anew. Either way accounts are kept, and orders that worked are reported
as cancelled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from controlplane.host import files
from controlplane.host.files import Durability
from hftd import bus, runtime
from hftd.daemons import fence_keeping
from hftd.daemons.claim_check import ClaimCheck
from hftd.daemons.simd import journal, session, snapshots, tape
from hftd.settings import SimSettings
from hftd.storage import fences
from hftd.venues import reference, replay, sim, sim_faults, synthetic
from hftd.wire import orders

FEED_HWM = 16
"""Frames of up to 64 lines: enough to keep marketd busy at full speed, and little enough that the tape stands
still soon after marketd does."""
BOOK_LOST_NS = 3_000_000_000
"""So long may the venue's book wait for the tape's next snapshot before the site is not healthy."""
REBUILD_LINES_MAX = 2_000_000
"""Further in than this after a crash, the market begins anew: reading it again would take minutes."""

Source = replay.Tape | synthetic.Synthetic


class Simd:
    def __init__(self, context: runtime.Context, settings: SimSettings, source: Source) -> None:
        self.context, self._speed = context, settings.speed
        folder = context.site_dir / "simd"
        self._kept = journal.VenueJournal(folder)
        self._position = journal.Position(folder, _identity(source))
        self._session_id = max(time.time_ns(), self._position.session + 1)
        self._gateway_path = folder / "gateway"
        self._faults = sim_faults.Faults()
        self._lost: dict[str, tuple[int, str]] = {}
        """Instrument whose book is lost -> since when (monotonic ns), and what is said of it."""
        self.feed = bus.pipeline.Push(context.bind("feed"), hwm=FEED_HWM)
        self.orders = bus.link.Router(context.bind("orders"))
        self.venue = sim.Venue(
            source.instruments,
            self._kept.accounts,
            self._kept.last_execution,
            context.instance,
            time.time_ns,
        )
        self._say_untradable()
        self.snapshots = snapshots.Snapshots(context, self.venue)
        self.fences = fences.Fences(folder / "fences.json", context.store_tokens.highest)
        self.claims = ClaimCheck(context)
        self.session = session.Session(
            self.venue,
            self._kept,
            self.fences,
            self.orders.send,
            self.claims.authentic,
            source=context.instance,
            gateway=self._gateway_path.read_bytes() if self._gateway_path.exists() else b"",
            on_gateway=self._keep_gateway,
            count=context.count,
            number=self._session_id,
        )
        self.feeder = tape.Feeder(
            source,
            tape.Pace(_times(settings)),
            session=self._session_id,
            skip=self._recover(),
            send=self.feed.send,
            on_skipped=self._on_skipped,
            on_sent=self._on_sent,
            on_bad=self._on_bad,
            on_gap=self._on_gap,
            on_end=self._on_end,
        )

    def configure(self, settings: SimSettings) -> None:
        self._speed = settings.speed
        self.feeder.follow(_times(settings), time.monotonic_ns())

    def _say_untradable(self) -> None:
        for each in self.venue.instruments:
            if why := each.untradable:
                self.context.event("instrument.refused", instrument=each.name, why=why)
            if why and each.contract != "inverse":
                text = f"{each.name} only feeds books, and orders in it are refused: {why}"
                self.context.alarm(f"instrument:{each.name}", "info", text, subject=each.name)

    def _recover(self) -> int:
        """Report what worked when the last process ended as cancelled; returns how many lines of the tape had
        been sent.
        """
        position, lost = self._position, list(self._kept.working.values())
        if self._kept.lost:
            self.context.event("journal.lost", what=self._kept.lost)
        skip = 0 if position.ended_well or position.lines > REBUILD_LINES_MAX else position.lines
        self.venue.restarted(lost)
        if lost or not position.ended_well:
            self.context.event(
                "simd.recovered", orders_cancelled=len(lost), tape_position=skip, session=self._session_id
            )
        return skip

    def _keep_gateway(self, identity: bytes) -> None:
        with contextlib.suppress(OSError):  # only saves the next process from waiting for it to speak first
            files.replace(self._gateway_path, identity, Durability.POWER)

    # --- the tape -------------------------------------------------------------------------------------------

    def _on_sent(self, lines: tape.Lines) -> None:
        for line in lines:
            reason = self.venue.line(line.instrument, line.receive_ns, line.raw)
            if reason:
                self._on_bad(replay.BadLine(line.file, line.number, reason))
            if self.venue.book_news:
                self._on_books(line)
        self.context.count("messages", len(lines))
        self._position.write(self.feeder.position, self._session_id)
        self.session.pump()

    def _on_skipped(self, lines: tape.Lines) -> None:
        for line in lines:
            self.venue.rebuild(line.instrument, line.receive_ns, line.raw)
            if self.venue.book_news:
                self._on_books(line)

    def _on_books(self, line: replay.Line) -> None:
        for name, lost in self.venue.book_news:
            if lost:
                self.context.count("books_lost")
                text = (
                    f"{name}: the venue's book is lost at {line.file} line {line.number}: {lost}; no order "
                    "is taken in it until the tape brings a snapshot (what a tape lacks: hftctl data verify)"
                )
                self._lost[name] = time.monotonic_ns(), text
                self.context.alarm(f"book:{name}", "warning", text, subject=name)
            else:
                self._lost.pop(name, None)
                self.context.clear(f"book:{name}")
        self.venue.book_news.clear()

    def _on_bad(self, line: replay.BadLine) -> None:
        self.context.count("bad_lines")
        alarm = self._faults.take(line)
        self.context.alarm(alarm.id, "warning", alarm.text, subject="tape")

    def _on_gap(self, line: replay.Line, gap_ns: int) -> None:
        self.context.count("tape_gaps")
        way = "jumps ahead" if gap_ns > 0 else "goes back"
        text = f"receive time {way} by {abs(gap_ns) // 1_000_000_000} s at {line.file} line {line.number}"
        count = self.context.counters["tape_gaps"]
        self.context.alarm("tape_gap", "warning", f"{text}; not waited for ({count} so far)", subject="tape")

    def _on_end(self) -> None:
        cancelled, lines = self.venue.end(), self.feeder.position
        self.session.pump()
        text = f"the tape has ended after {lines} lines; {cancelled} own orders cancelled; no order is taken"
        self.context.alarm("tape_end", "info", f"{text} any more", subject="tape")
        self.context.event("tape.ended", lines=lines, orders_cancelled=cancelled)

    # --- orders and time ------------------------------------------------------------------------------------

    def on_order(self, identity: bytes, frame: bytes) -> None:
        """What does not decode the loop counts; what the desk does not know, the desk."""
        self.session.handle(identity, orders.decode_towards_venue(frame))

    def turn(self) -> int | None:
        """Send what is due; the moment of the next line, or None."""
        self.session.pump()
        due_ns = self.feeder.turn(time.monotonic_ns())
        self._kept.sync_soon()
        rebuilding = self.feeder.rebuilding
        self.context.set_ready(
            not rebuilding, "reading the tape again, up to where it was" if rebuilding else ""
        )
        return due_ns

    def each_second(self, now_ns: int) -> None:
        context, desk = self.context, self.session
        desk.recover()
        if desk.full:
            context.alarm("journal_full", "critical", f"no orders are taken: {desk.full}")
        else:
            context.clear("journal_full")
        self.feeder.beat()
        for name, (since_ns, text) in self._lost.items():
            if now_ns - since_ns >= BOOK_LOST_NS:
                context.alarm(f"book:{name}", "critical", text, subject=name)
        context.gauge("tape_position", self.feeder.position)
        context.gauge("tape_paused", float(self.feeder.paused))
        context.gauge("unsent", desk.unsent)

    def stop(self) -> None:
        """Orders that work stay in the journal, and the next process reports them as cancelled: what is sent
        now would die with this one.
        """
        self._position.write(0, self._session_id, ended_well=True)
        self._position.close()
        self._kept.close()

    # --- what it is asked -----------------------------------------------------------------------------------

    def accounts(self, _: dict[str, Any]) -> list[dict[str, str | int]]:
        """Whole units of 1e-8, so that positiond's can be compared with ==."""
        return [
            {"market": name, "symbol": symbol, "quantity": kept.quantity, "cash": kept.cash}
            for name, symbol, kept in self.venue.accounts
        ]

    def tape(self, _: dict[str, Any]) -> dict[str, Any]:
        feeder = self.feeder
        return {
            "position": feeder.position,
            "sent": feeder.sent,
            "session": self._session_id,
            "ended": feeder.ended,
            "paused": feeder.paused,
            "speed": self._speed,
        }


def build(context: runtime.Context, settings: SimSettings) -> runtime.Loop:
    """Nothing is sent or received before the loop runs. Raises InvalidInput for a tape that is not there."""
    source: Source = (
        replay.Tape(
            [Path(path) for path in settings.tape],
            reference.of(settings.instruments, settings.exchange_info),
        )
        if settings.tape
        else synthetic.Synthetic(settings.seed)
    )
    simd = Simd(context, settings, source)
    loop = runtime.Loop(context)

    def flush() -> None:
        due_ns = simd.turn()
        if due_ns is not None:
            loop.wake_at(due_ns)

    loop.on_router(simd.orders.socket, simd.on_order)
    loop.on_router(simd.snapshots.router.socket, simd.snapshots.on_asked)
    loop.before_wait(flush)
    loop.every(1.0, simd.each_second)
    loop.on_ask("accounts", simd.accounts)
    fence_keeping.keep(loop, context, simd.fences, simd.claims)
    loop.on_ask("tape", simd.tape)
    loop.on_settings(simd.configure)
    loop.on_stop(simd.stop)
    return loop


def _times(settings: SimSettings) -> int:
    """The tape's own speed; 0: as fast as it goes."""
    return 0 if settings.speed == "max" else int(settings.speed)


def _identity(source: Source) -> bytes:
    parts: Iterable[str]
    if isinstance(source, synthetic.Synthetic):
        parts = ("synthetic", str(source.seed))
    else:
        parts = (f"{path.resolve()}:{path.stat().st_size}" for files in source.files for path in files)
    return journal.identity(parts)
