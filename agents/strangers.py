"""Is somebody without the key at the keeper's UDP port? One alarm, from the keeper's counts, once a second.
Pure.
"""

from __future__ import annotations

FORGED_PER_REPORT = 5
"""A peer with another key sends ten a second; one datagram that went astray is not worth an alarm."""

QUIET_REPORTS = 10
"""Below that for so many reports, some ten seconds, and the alarm ends: one that comes and goes says less."""


class Strangers:
    def __init__(self) -> None:
        self._counted: int | None = None
        self._quiet = QUIET_REPORTS

    def look(self, forged: int) -> str:
        """The alarm's text while it stands; empty: all is quiet. `forged`: the keeper's count so far; a new
        keeper, or a new agent, begins again.
        """
        before, self._counted = self._counted, forged
        new = forged - before if before is not None and forged >= before else 0
        self._quiet = 0 if new >= FORGED_PER_REPORT else min(QUIET_REPORTS, self._quiet + 1)
        if self._quiet >= QUIET_REPORTS:
            return ""
        return (
            "datagrams without a valid key come to the keeper's UDP port; none is believed. They are a "
            "stranger's, or a peer has another site.key: then a hand-over to it names nobody, standbys race"
        )
