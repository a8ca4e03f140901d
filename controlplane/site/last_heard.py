"""The last record of each host, for when its agent is gone so long that the store has none any more: totals
are of all that was counted, and do not go back because an agent hangs.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.model.observed import HostRecord


class LastHeard:
    def __init__(self) -> None:
        self._records: dict[str, HostRecord] = {}

    def __repr__(self) -> str:
        return f"<LastHeard of {', '.join(sorted(self._records)) or 'nobody'}>"

    def look(self, hosts: Mapping[str, HostRecord]) -> tuple[HostRecord, ...]:
        """The records that there are now; returns the last ones of the hosts that have none."""
        self._records |= hosts
        return tuple(record for host, record in self._records.items() if host not in hosts)
