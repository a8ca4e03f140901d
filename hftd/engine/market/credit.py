"""How far a publisher may go: the least of what its readers have allowed. Pure; used by marketd.

A reader allows messages up to a cumulative sequence number of one session and says so again at least once a
second. One that has been silent too long is gone and no longer counts; with none left nothing may go out, so
a replay pauses instead of running into the void.
"""

from __future__ import annotations


class Credits:
    def __init__(self, silence_ns: int) -> None:
        self.silence_ns = silence_ns
        self.session = 0
        self._readers: dict[str, tuple[int, int]] = {}
        """reader -> (cumulative, when it last spoke)"""
        self.up_to = 0
        """Highest sequence number that may go out."""

    def __repr__(self) -> str:
        return f"<Credits up to {self.up_to}, {len(self._readers)} readers>"

    def begin(self, session: int) -> None:
        """A new count: what was allowed in the old one says nothing of this one."""
        self.session = session
        self._readers.clear()
        self.up_to = 0

    def grant(self, reader: str, session: int, cumulative: int, now_ns: int) -> int:
        """The new limit. A grant for another session is ignored; one that takes back an earlier one is obeyed
        for what has not gone out.
        """
        if session == self.session:
            self._readers[reader] = (cumulative, now_ns)
            self._settle()
        return self.up_to

    def forget_silent(self, now_ns: int) -> list[str]:
        """Drop the readers that are gone and say which."""
        gone = [
            reader for reader, (_, spoke_ns) in self._readers.items() if now_ns - spoke_ns > self.silence_ns
        ]
        for reader in gone:
            del self._readers[reader]
        if gone:
            self._settle()
        return gone

    def _settle(self) -> None:
        self.up_to = min((cumulative for cumulative, _ in self._readers.values()), default=0)
