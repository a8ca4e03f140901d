"""Between a daemon and its agent, over HFT_AGENT (the agent's ROUTER; a daemon is a DEALER whose identity is
its instance id, a dot and a random part).
"""

from __future__ import annotations

from typing import Any

import msgspec

from hftd.wire.codec import Decoder, Message, ProcessOnWire

# --- from the daemon ----------------------------------------------------------------------------------------


class Hello(Message, tag=1, frozen=True):
    """First message of a process, repeated each second until `Welcome` comes, and again when the agent has
    been new.
    """

    process: ProcessOnWire
    daemon: str
    version_text: str
    endpoints: dict[str, str]
    """Socket name -> ZeroMQ endpoint that it has bound."""


class AlarmOnWire(msgspec.Struct, array_like=True, frozen=True):
    id: str
    severity: str
    subject: str
    text: str
    since_ns: int


class Status(Message, tag=3, frozen=True):
    """Once a second and at each change of readiness."""

    ready: bool
    reason: str
    phase: str
    epoch: int
    counters: dict[str, int]
    """Since the process began; `_total` is added for Prometheus. A key may be `name{label="value"}`."""
    gauges: dict[str, float]
    histograms: dict[str, dict[int, int]]
    """controlplane.site.histogram, ns, since the process began."""
    alarms: list[AlarmOnWire]
    """All that stand now."""
    healthy: bool = True
    """False: the daemon says that something is wrong with it, and `reason` what; it is not ready then."""


class Event(Message, tag=4, frozen=True):
    kind: str
    """noun.verb, as in `book.gap`."""
    fields: dict[str, Any]


class Answer(Message, tag=5, frozen=True):
    ask: int
    """The Ask's number."""
    ok: bool
    body: Any
    """Plain values; a text that says why when not ok."""


# --- from the agent -----------------------------------------------------------------------------------------


class Welcome(Message, tag=16, frozen=True):
    config_revision: int


class Peer(msgspec.Struct, array_like=True, frozen=True):
    instance: str
    endpoints: dict[str, str]
    role: str
    """leader, standby or "" (no roles in that service)."""
    epoch: int


class Peers(Message, tag=18, frozen=True):
    """All instances of one service that are registered now; sent at hello and at each change."""

    service: str
    daemon: str
    peers: list[Peer]


class Ask(Message, tag=19, frozen=True):
    """A question that the daemon answers from memory: orders, positions, accounts, book ..."""

    ask: int
    what: str
    args: dict[str, Any]


class Drain(Message, tag=20, frozen=True):
    reason: str


class Reload(Message, tag=21, frozen=True):
    config_revision: int


class Stop(Message, tag=22, frozen=True):
    """Exit within grace_s, or be killed."""

    grace_s: float


FromDaemon = Hello | Status | Event | Answer
FromAgent = Welcome | Peers | Ask | Drain | Reload | Stop

decode_from_daemon: Decoder[FromDaemon] = Decoder(FromDaemon)
decode_from_agent: Decoder[FromAgent] = Decoder(FromAgent)
