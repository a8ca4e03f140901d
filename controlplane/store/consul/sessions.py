"""Leases as Consul's sessions: behaviour delete, no lock delay, no node checks (a session must not end
because an agent of Consul is restarted). A session may live for up to twice its TTL, so it never decides a
group's leadership; that is a record (leadership.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from controlplane import clock as clocks
from controlplane.errors import InvalidInput, LeaseLost
from controlplane.store.consul.calls import Calls, decoded

SECOND_NS = 1_000_000_000
TTL_S_MAX = 86_400.0
NO_CHECKS: dict[str, list[str]] = {"NodeChecks": [], "ServiceChecks": [], "Checks": []}
_TTL_RANGE = re.compile(r"must be between \[([0-9.hms]+)=")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class _Created(msgspec.Struct, rename={"id": "ID"}):
    id: str


class _Session(msgspec.Struct, rename={"ttl": "TTL"}):
    ttl: str


_created = msgspec.json.Decoder(_Created)
_renewed = msgspec.json.Decoder(list[_Session])


@dataclass(slots=True)
class ConsulLease:
    calls: Calls
    clock: clocks.Clock
    id: str
    ttl_s: float
    deadline_boot_ns: int

    async def keep_alive(self) -> None:
        # Stamp before sending: a late stamp would lengthen our belief in the lease.
        before_ns = self.clock.boot_ns()
        answer = await self.calls.ask("PUT", f"session/renew/{self.id}")
        found = decoded(_renewed, answer, f"session {self.id}") if answer.status == 200 else []
        if not found:
            raise LeaseLost(
                f"store consul: session {self.id} (ttl {self.ttl_s} s) is not known any more: it ended or "
                "was destroyed"
            )
        self.ttl_s = seconds(found[0].ttl)
        self.deadline_boot_ns = before_ns + int(self.ttl_s * SECOND_NS)

    async def revoke(self) -> None:
        """End the session, and with it delete its keys; one that is gone already is fine."""
        await self.calls.ask("PUT", f"session/destroy/{self.id}")


async def create(calls: Calls, clock: clocks.Clock, ttl_s: float) -> ConsulLease:
    """A new session of at least this TTL: Consul grants none below its `session_ttl_min` (10 s by default).

    Raises:
        InvalidInput: not more than 0, or more than a day.
    """
    if not 0 < ttl_s <= TTL_S_MAX:
        raise InvalidInput(f"store lease: ttl {ttl_s} s, wanted more than 0 and at most {TTL_S_MAX:.0f} s")
    granted_s = ttl_s
    for _ in range(2):
        before_ns = clock.boot_ns()
        asked = {"TTL": f"{granted_s:.3f}s", "Behavior": "delete", "LockDelay": "0s", **NO_CHECKS}
        try:
            answer = await calls.ask("PUT", "session/create", body=msgspec.json.encode(asked))
        except InvalidInput as exc:
            least_s = least_ttl_s(str(exc))
            if least_s is None or least_s <= granted_s:
                raise
            granted_s = least_s
            continue
        deadline_ns = before_ns + int(granted_s * SECOND_NS)
        return ConsulLease(
            calls, clock, decoded(_created, answer, "session", writes=True).id, granted_s, deadline_ns
        )
    raise InvalidInput(f"store lease: ttl {ttl_s} s is refused, and so is the server's own least")


def least_ttl_s(refusal: str) -> float | None:
    """What Consul names as its least TTL when it refuses one; None: it refuses for another reason."""
    found = _TTL_RANGE.search(refusal)
    return seconds(found[1]) if found else None


def seconds(duration: str) -> float:
    """Of a duration as Go writes it ("10s", "1m30s"). Raises InvalidInput."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise InvalidInput(f'duration "{duration}": wanted one like 10s or 1m30s')
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
