"""Between a daemon and its agent, over HFT_AGENT (the agent's ROUTER; a daemon is a DEALER whose identity is
its instance id, a dot and a random part).

What a daemon says goes on to the site's records, the metrics page and the screen, so it is bounded as those
are (controlplane/model/bounds.py): a message outside of that does not decode.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from controlplane.model.bounds import (
    BreakerState,
    Count,
    Counters,
    Endpoint,
    Epoch,
    ForcedState,
    Histograms,
    Metric,
    Name,
    Severity,
    Text,
    WallNs,
    Word,
)
from hftd.wire.codec import Decoder, Message, ProcessOnWire, TokenOnWire

# --- from the daemon ----------------------------------------------------------------------------------------


class Hello(Message, tag=1, frozen=True):
    """First message of a process, repeated each second until `Welcome` comes, and again when the agent has
    been new.
    """

    process: ProcessOnWire
    daemon: Name
    version_text: Word
    endpoints: Annotated[dict[Name, Endpoint], msgspec.Meta(max_length=32)]
    """Socket name -> ZeroMQ endpoint that it has bound."""


class AlarmOnWire(msgspec.Struct, array_like=True, frozen=True):
    id: Text
    """May end with a path."""
    severity: Severity
    subject: Text
    text: Text
    since_ns: WallNs


class BreakerOnWire(msgspec.Struct, array_like=True, frozen=True):
    """A circuit breaker of the daemon; calls since the process began."""

    name: Name
    state: BreakerState
    forced: bool
    reason: Text
    until_ns: WallNs
    """When an open one is tried, or what was forced ends; 0: never by itself."""
    calls: Count
    failures: Count
    slow: Count
    refused: Count


class Status(Message, tag=3, frozen=True):
    """Once a second and at each change of readiness."""

    ready: bool
    reason: Text
    phase: Word
    epoch: Epoch
    counters: Counters
    """Since the process began; `_total` is added for Prometheus. A key may be `name{label="value"}`."""
    gauges: Annotated[dict[Metric, float], msgspec.Meta(max_length=256)]
    histograms: Histograms
    """controlplane.site.histogram, ns, since the process began."""
    alarms: Annotated[list[AlarmOnWire], msgspec.Meta(max_length=64)]
    """All that stand now."""
    healthy: bool = True
    """False: the daemon says that something is wrong with it, and `reason` what; it is not ready then."""
    breakers: Annotated[list[BreakerOnWire], msgspec.Meta(max_length=64)] = msgspec.field(
        default_factory=list
    )
    config_revision: Count = 0
    """Of the settings that are in force; 0: a daemon that does not say."""
    config_refused: Text = ""
    """Why the settings that the agent sent last are not in force; empty: they are."""


class Event(Message, tag=4, frozen=True):
    kind: Word
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
    """The instances of one service that are registered now; sent at hello and at each change. Without those
    that are critical or in maintenance, where there are no roles and others serve.
    """

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
    """The settings that are wanted from now on, complete; sent at hello and at each change that needs no
    restart. Taken whole between two ticks, or refused whole; the next Status, sent at once, says which.
    """

    config_revision: Count
    settings: dict[str, Any] = msgspec.field(default_factory=dict)


class Stop(Message, tag=22, frozen=True):
    """Exit within grace_s, or be killed."""

    grace_s: float


class Tokens(Message, tag=23, frozen=True):
    """The token that the store holds for each group, as the agent sees it; sent at hello and at each
    change. A receiver believes nothing far above it (storage/heights.py).
    """

    tokens: list[TokenOnWire]


class FenceReset(Message, tag=24, frozen=True):
    """An operator sets a receiver's fence to what the store holds. Answered by an Answer, once it is on
    disk.
    """

    ask: int
    """Number of the Answer."""
    store: TokenOnWire
    """As the agent has read it from the store, after the receiver had said `admitted`."""
    claimant: ProcessOnWire
    """Who holds that token; an empty instance: no process."""
    admitted: int
    """As the receiver answered the Ask `fences`: it refuses when a claim was admitted since."""


class OverrideOnWire(msgspec.Struct, array_like=True, frozen=True):
    name: Name
    """Of the breakers that it is about, whoever has them."""
    state: ForcedState
    reason: Text
    until_boot_ns: Count
    """CLOCK_BOOTTIME of this host; 0: until it is taken back."""


class Overrides(Message, tag=25, frozen=True):
    """Every override of circuit breakers that is in force on the site; sent at hello and at each change. A
    breaker that it does not name decides for itself.
    """

    overrides: list[OverrideOnWire]


class Flags(Message, tag=26, frozen=True):
    """Every plain key of the site with its value; sent at hello and at each change."""

    flags: dict[str, Any]


FromDaemon = Hello | Status | Event | Answer
FromAgent = Welcome | Peers | Ask | Drain | Reload | Stop | Tokens | FenceReset | Overrides | Flags

decode_from_daemon: Decoder[FromDaemon] = Decoder(FromDaemon)
decode_from_agent: Decoder[FromAgent] = Decoder(FromAgent)
