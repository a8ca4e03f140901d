"""The status document, `hftctl status -o json`, as structs: built once (status.py), read by name everywhere
else. look.py has what is asked of it.

The field names are its JSON keys: scripts rely on them, so fields may be added, never renamed. Times are ISO
8601 in UTC. hftctl reads them by the same names from JSON (cli/by_name.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from controlplane.errors import InvalidInput
from controlplane.model.bounds import Text, Word


class StoreMember(msgspec.Struct, frozen=True):
    name: str
    answers: bool
    leads: bool
    version: str
    behind: int
    """Log entries by which it is behind the furthest."""
    reason: str


class StoreState(msgspec.Struct, frozen=True):
    kind: str
    endpoints: Sequence[str]
    healthy: bool
    version: str
    latency_ms: float | None
    """Of one read; None when none was answered."""
    leader: str | None = None
    """The member that leads its cluster; None: none, or not known."""
    members: Sequence[StoreMember] = ()
    leader_changes: int = 0
    """Seen by the agent that answers, since it began."""
    size_bytes: int | None = None
    size_max_bytes: int | None = None
    reason: str = ""
    """Why it is not healthy."""


class ControllerState(msgspec.Struct, frozen=True):
    url: str | None
    """Of the elected controller's HTTP; None while none is elected."""


class Paused(msgspec.Struct, frozen=True):
    by: Text = ""
    reason: Text = ""
    since: Word | int = ""
    """As it was written."""


class Tuning(msgspec.Struct, frozen=True):
    verdict: str
    findings: Sequence[Any]


class HostRow(msgspec.Struct, frozen=True):
    name: str
    state: str
    """up, silent, down."""
    address: str | None
    url: str | None
    """Of the agent's HTTP."""
    last_seen_ms: int | None
    tuning: Tuning
    instances: Sequence[str]


class InstanceRow(msgspec.Struct, frozen=True):
    id: str
    host: str
    pid: int | None
    state: str
    """stopped, starting, running, stopping, backoff; unknown where no agent reports."""
    role: str | None
    """leader, standby; None in a service without roles."""
    health: str
    """passing, warning, critical."""
    reason: str
    ready: bool
    uptime_s: float | None
    restarts: int
    cpus: Sequence[int]
    sched: str
    endpoints: Mapping[str, str]
    version: str
    config_revision: int
    crashes: int = 0
    """How often it ended, or could not be started, unasked. `restarts` counts every start after the first,
    those that an operator or a changed spec asked for too."""
    registry: str = ""
    """passing, warning or critical, as the registry has it (Consul's own checks); empty: not registered."""
    maintenance: str = ""
    """Why an operator took it out of service for a time; empty: nobody did."""
    spec_revision: int = 0
    """Store revision of the spec that it runs as."""
    config_wanted: int = 1
    """Revision of the configuration that it shall have in force; `config_revision` is the one that it has."""
    config_refused: str = ""
    """Why it did not take the wanted one; empty: it did, or it was not sent yet."""
    config_seen_ms: int | None = None
    """How old the word about the revision in force is; None: there was none."""


class RegisteredRow(msgspec.Struct, frozen=True):
    """An instance that stands in the registry and is none of the floor's: by hand, by a script, or a daemon
    that registers itself.
    """

    id: str
    service: str
    host: str
    address: str
    port: int
    health: str
    maintenance: str
    endpoints: Mapping[str, str]
    tags: Sequence[str]
    meta: Mapping[str, str]
    zone: str
    weight: int
    version: str


class ServiceRow(msgspec.Struct, frozen=True):
    name: str
    daemon: str
    mode: str
    desired: int
    running: int
    leader: str | None
    epoch: int | None
    lease_remaining_ms: int | None
    instances: Sequence[InstanceRow]
    """The desired ones first, in the order of their slots; then those of an earlier spec, still stopping."""
    config_revision: int = 1
    """That is wanted; in a rollout, of those that it has not reached."""
    rollout: str = ""
    """Operation of the configuration rollout that is under way; empty: none is."""


class BreakerRow(msgspec.Struct, frozen=True):
    name: str
    host: str
    state: str
    """closed, open, half_open, forced_open, disabled, metrics_only."""
    instance: str
    forced: bool
    reason: str
    until: str | None
    """When an open one is tried, or what an operator forced ends."""
    calls: int
    failures: int
    slow: int
    refused: int


class OperationRow(msgspec.Struct, frozen=True):
    id: str
    kind: str
    state: str
    actor: str
    reason: str


class AlarmState(msgspec.Struct, frozen=True):
    id: str
    severity: str
    subject: str
    text: str
    since: str


class Percentiles(msgspec.Struct, frozen=True):
    """Microseconds; None where nothing was counted."""

    p50: float | None
    p99: float | None
    p99_9: float | None


class Flow(msgspec.Struct, frozen=True):
    """What goes through the trading floor, since it began."""

    messages: int
    messages_per_s: float | None
    """None while a market data daemon that should say it does not."""
    lost: int
    gaps: int
    orders: int
    fills: int
    rejects: int
    stale_token_refusals: int
    tick_to_order_us: Percentiles
    order_to_ack_us: Percentiles


class StatusDocument(msgspec.Struct, frozen=True):
    site: str
    healthy: bool
    store: StoreState
    controller: ControllerState
    paused: Paused | None
    hosts: Sequence[HostRow]
    services: Sequence[ServiceRow]
    breakers: Sequence[BreakerRow]
    operations: Sequence[OperationRow]
    alarms: Sequence[AlarmState]
    flow: Flow
    reasons: Sequence[str] = ()
    """Why the site is not healthy, a line each; none: it is."""
    registered: Sequence[RegisteredRow] = ()


encode = msgspec.json.Encoder().encode

_decoder = msgspec.json.Decoder(StatusDocument)


def decode(body: bytes) -> StatusDocument:
    """Raises InvalidInput: the answer is not a status, such as one of an agent of another release."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"status: the agent's answer does not decode: {exc}") from exc
