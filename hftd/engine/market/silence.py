"""For how long a stream that should speak has said nothing. Pure; used by marketd of the venue's feed, by
bookd of the market stream.

What proves life is any frame, a beat too: a market in which nothing happens is quiet, not silent. Time in
which nothing could be heard (the reader is held back by credit, or did not run itself) is not counted.
"""

from __future__ import annotations

LOOK_NS = 1_000_000_000
"""From one look to the next; a look that comes later counts for no more, as the reader itself stood still,
and what was said meanwhile waits to be read."""
SILENT_NS = 4_000_000_000
"""Four beats missed. Told to the site's readers within 8 s, with the look, the report and the host record."""


class Silence:
    __slots__ = ("_looked_ns", "silent_ns")

    def __init__(self) -> None:
        self.silent_ns = 0
        self._looked_ns = 0

    def __repr__(self) -> str:
        return f"<Silence of {self.silent_ns / 1e9:g} s>"

    def heard(self) -> None:
        self.silent_ns = 0

    def look(self, now_ns: int, *, listening: bool) -> bool:
        """Called once every LOOK_NS; True while it is silent. `listening`: what comes now would be heard."""
        passed_ns, self._looked_ns = now_ns - self._looked_ns, now_ns
        if not listening:
            self.silent_ns = 0
        else:
            self.silent_ns += min(passed_ns, LOOK_NS)
        return self.silent_ns >= SILENT_NS
