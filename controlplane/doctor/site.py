"""The hosts of a site by their records: do their clocks agree, is each run by one agent."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping
from statistics import median

import msgspec

from controlplane import model
from controlplane.doctor.finding import Finding
from controlplane.errors import HftctlError
from controlplane.model.observed import HostRecord
from controlplane.store import Keys, Store

LOOKS, LOOK_S = 5, 0.7
"""An agent writes its record each second; two of one name take turns."""
CLOCK_WARNING_S, CLOCK_CRITICAL_S = 0.5, 5.0
"""Wall clocks order events and logs, and are in records and certificates; leases do not use them."""


async def look(client: Store, keys: Keys) -> list[Finding]:
    """Takes LOOKS * LOOK_S. Raises nothing."""
    seen: dict[str, list[tuple[HostRecord, int]]] = {}
    try:
        for _ in range(LOOKS):
            for key, entry in (await client.range(keys.hosts)).entries.items():
                try:
                    record = model.decode(HostRecord, entry.value)
                except msgspec.DecodeError:
                    continue  # the agents' alarm names it
                rows = seen.setdefault(key.removeprefix(keys.hosts), [])
                if not rows or rows[-1][0] != record:
                    rows.append((record, time.time_ns()))
            await asyncio.sleep(LOOK_S)
    except HftctlError as exc:
        return [
            Finding("hosts", "info", f'site "{keys.site}"', f"not looked at: {exc}", "a store that answers")
        ]
    if not seen:
        return [Finding("hosts", "info", f'site "{keys.site}"', "no agent has a record", "", "hftctl up")]
    return [*of_agents({host: [row[0] for row in rows] for host, rows in seen.items()}), *of_clocks(seen)]


def of_agents(seen: Mapping[str, list[HostRecord]]) -> Iterator[Finding]:
    """Pure. Two agents of one name put different boots or addresses under it in turn."""
    for host, found in sorted(seen.items()):
        who = [(record.boot_id, record.url) for record in found]
        turns = sum(one != other for one, other in itertools.pairwise(who))
        if turns >= 2 and len(set(who)) > 1:
            yield Finding(
                "host.one_agent",
                "critical",
                host,
                f"{len(set(who))} agents take turns at its record: {', '.join(sorted({w[1] for w in who}))}",
                "one agent a host",
                "end one of them (hftctl down there), or give its host another name",
            )
        else:
            yield Finding("host.one_agent", "ok", host, f"one agent, {found[-1].url}")


def of_clocks(seen: Mapping[str, list[tuple[HostRecord, int]]]) -> Iterator[Finding]:
    """Pure. A record comes within a second or so of being stamped, so only what is more is a clock's."""
    offsets_s = {
        host: min((at_ns - record.updated_ns for record, at_ns in rows[1:] or rows), key=abs, default=0) / 1e9
        for host, rows in seen.items()
    }
    middle_s = median(offsets_s.values())
    for host, offset_s in sorted(offsets_s.items()):
        apart_s = max(0.0, abs(offset_s - middle_s) - LOOK_S)
        severity = (
            "critical" if apart_s > CLOCK_CRITICAL_S else "warning" if apart_s > CLOCK_WARNING_S else "ok"
        )
        agrees = severity == "ok"
        yield Finding(
            "host.clock",
            severity,
            host,
            "agrees with the others" if agrees else f"{apart_s:.1f} s away from the middle of the hosts",
            "" if agrees else f"within {CLOCK_WARNING_S:g} s",
            "" if agrees else "chronyc tracking; see that chrony or PTP runs there",
        )
