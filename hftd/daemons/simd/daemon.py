"""simd: the venue. It replays a tape (or a synthetic market) to marketd and matches our orders against it.

Wiring only. When a line leaves: tape.py. What the venue does with lines and orders: venues/sim.py.
Who may give orders and what is said
back: session.py. What is said of a damaged tape: venues/sim_faults.py. What outlives this process,
under `<site-dir>/simd`: journal.py. After a crash the tape goes on where it was under a new
session; after a stop it begins anew. Either way accounts are kept, and orders that worked are reported as
cancelled.
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
from hftd.daemons.simd import journal, tape
from hftd.daemons.simd import session as desks
from hftd.settings import SimSettings
from hftd.storage import fences
from hftd.venues import replay, sim, sim_faults, synthetic
from hftd.wire import codec, orders, requests

FEED_HWM = 16
"""Frames of up to 64 lines: enough to keep marketd busy at full speed, and little enough that the tape stands
still soon after marketd does."""
REBUILD_LINES_MAX = 2_000_000
"""Further in than this after a crash, the market begins anew: reading it again would take minutes."""


def build(context: runtime.Context, settings: SimSettings) -> runtime.Loop:
    """Join tape, venue, order desk and loop; nothing is sent or received before the loop runs. Raises
    InvalidInput for a tape that is not there.
    """
    source = (
        replay.Tape([Path(path) for path in settings.tape])
        if settings.tape
        else synthetic.Synthetic(settings.seed)
    )
    folder = context.site_dir / "simd"
    kept = journal.VenueJournal(folder)
    position = journal.Position(folder, _identity(source))
    session_id = max(time.time_ns(), position.session + 1)
    skip = 0 if position.ended_well or position.lines > REBUILD_LINES_MAX else position.lines
    gateway = folder / "gateway"

    feed = bus.pipeline.Push(context.bind("feed"), hwm=FEED_HWM)
    snapshots, desk = bus.link.Router(context.bind("snapshots")), bus.link.Router(context.bind("orders"))
    venue = sim.Venue(source.instruments, kept.accounts, kept.last_execution, context.instance, time.time_ns)

    def on_gateway(identity: bytes) -> None:
        with contextlib.suppress(OSError):  # only saves the next process from waiting for it to speak first
            files.replace(gateway, identity, Durability.POWER)

    session = desks.Session(
        venue,
        kept,
        fences.Fences(folder / "fences.json"),
        desk.send,
        source=context.instance,
        gateway=gateway.read_bytes() if gateway.exists() else b"",
        on_gateway=on_gateway,
        count=context.count,
    )
    lost = list(kept.working.values())
    venue.restarted(lost)
    if lost or not position.ended_well:
        context.event("simd.recovered", orders_cancelled=len(lost), tape_position=skip, session=session_id)
    faults = sim_faults.Faults()

    def on_bad(line: replay.BadLine) -> None:
        context.count("bad_lines")
        alarm = faults.take(line)
        context.alarm(alarm.id, "warning", alarm.text, subject="tape")

    def on_sent(lines: tape.Lines) -> None:
        for line in lines:
            reason = venue.line(line.instrument, line.receive_ns, line.raw)
            if reason:
                on_bad(replay.BadLine(line.file, line.number, reason))
        context.count("messages", len(lines))
        position.write(feeder.position, session_id)
        session.pump()

    def on_skipped(lines: tape.Lines) -> None:
        for line in lines:
            venue.rebuild(line.instrument, line.receive_ns, line.raw)

    def on_end() -> None:
        cancelled = venue.end()
        session.pump()
        text = (
            f"the tape has ended after {feeder.position} lines; {cancelled} own orders cancelled; no "
            "order is taken any more"
        )
        context.alarm("tape_end", "info", text, subject="tape")
        context.event("tape.ended", lines=feeder.position, orders_cancelled=cancelled)

    feeder = tape.Feeder(
        source,
        tape.Pace(0 if settings.speed == "max" else int(settings.speed)),
        session=session_id,
        skip=skip,
        send=feed.send,
        on_skipped=on_skipped,
        on_sent=on_sent,
        on_bad=on_bad,
        on_end=on_end,
    )

    loop = runtime.Loop(context)

    def envelope() -> tuple[int, int, int, str, None]:
        return (codec.VERSION, 0, time.time_ns(), context.instance, None)

    def on_asked(identity: bytes, frame: bytes) -> None:
        asked = requests.decode_asked(frame)
        match asked:
            case requests.InstrumentsWanted():
                snapshots.send(identity, codec.encode(requests.Instruments(*envelope(), venue.instruments)))
            case requests.SnapshotWanted(instrument=instrument):
                shown = venue.snapshot(instrument)
                if shown is None:
                    context.count("snapshots_not_there")  # marketd asks again
                elif snapshots.send(
                    identity, codec.encode(requests.SnapshotFrame(*envelope(), instrument, *shown))
                ):
                    context.count("snapshots")
            case _:
                context.count("unexpected")

    def on_order(identity: bytes, frame: bytes) -> None:
        message = orders.decode_towards_venue(frame)
        session.handle(identity, message)

    def flush() -> None:
        session.pump()
        due_ns = feeder.turn(time.monotonic_ns())
        if due_ns is not None:
            loop.wake_at(due_ns)
        kept.sync_soon()
        context.set_ready(
            not feeder.rebuilding, "" if not feeder.rebuilding else "reads the tape again up to where it was"
        )

    def each_second(_: int) -> None:
        session.recover()
        if session.full:
            context.alarm("journal_full", "critical", f"no orders are taken: {session.full}")
        else:
            context.clear("journal_full")
        context.gauge("tape_position", feeder.position)
        context.gauge("tape_paused", float(feeder.paused))
        context.gauge("unsent", session.unsent)

    def on_stop() -> None:
        # Orders that work stay in the journal, and the next process reports them as cancelled: what is sent
        # now would die with this one.
        position.write(0, session_id, ended_well=True)
        position.close()
        kept.close()

    def tape_shown(_: dict[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "position": feeder.position,
            "sent": feeder.sent,
            "session": session_id,
            "ended": feeder.ended,
        }
        return shown | {"paused": feeder.paused, "speed": settings.speed}

    loop.on_router(desk.socket, on_order)
    loop.on_router(snapshots.socket, on_asked)
    loop.before_wait(flush)
    loop.every(1.0, each_second)
    loop.on_ask("accounts", lambda _: accounts_of(venue))
    loop.on_ask("tape", tape_shown)
    loop.on_stop(on_stop)
    return loop


def accounts_of(venue: sim.Venue) -> list[dict[str, str | int]]:
    """Whole units of 1e-8, so that positiond's can be compared with ==."""
    return [
        {"market": name, "symbol": symbol, "quantity": kept.quantity, "cash": kept.cash}
        for name, symbol, kept in venue.accounts
    ]


def _identity(source: replay.Tape | synthetic.Synthetic) -> bytes:
    parts: Iterable[str]
    if isinstance(source, synthetic.Synthetic):
        parts = ("synthetic", str(source.seed))
    else:
        parts = (f"{path.resolve()}:{path.stat().st_size}" for files in source.files for path in files)
    return journal.identity(parts)
