"""The venue's second socket: which instruments there are, and the book of one as a snapshot, for marketd.

A question that cannot be answered now is counted and dropped: marketd asks again.
"""

from __future__ import annotations

import time

from hftd import bus, runtime
from hftd.venues import sim
from hftd.wire import codec, requests


class Snapshots:
    def __init__(self, context: runtime.Context, venue: sim.Venue) -> None:
        self._context, self._venue = context, venue
        self.router = bus.link.Router(context.bind("snapshots"))

    def _head(self) -> codec.Head:
        return codec.head(self._context.instance, time.time_ns())

    def on_asked(self, identity: bytes, frame: bytes) -> None:
        asked = requests.decode_asked(frame)
        match asked:
            case requests.InstrumentsWanted():
                known = requests.Instruments(*self._head(), self._venue.instruments)
                self.router.send(identity, codec.encode(known))
            case requests.SnapshotWanted():
                self._show(identity, asked.instrument)
            case _:
                self._context.count("unexpected")

    def _show(self, identity: bytes, instrument: int) -> None:
        shown = self._venue.snapshot(instrument)
        if shown is None:
            self._context.count("snapshots_not_there")
            return
        receive_ns, raw = shown
        found = requests.SnapshotFrame(*self._head(), instrument, receive_ns, raw)
        if self.router.send(identity, codec.encode(found)):
            self._context.count("snapshots")
