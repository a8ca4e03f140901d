"""What a record may hold: ranges of numbers and shapes of texts, as types that `decode` enforces. A record
outside of them does not decode, and the error names the field and the bound.

Nothing that the store holds is believed further than this: a port goes to a socket, a time to a calendar, an
incarnation into every later token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec


def one_of(*words: str) -> msgspec.Meta:
    """One of these, exactly."""
    return msgspec.Meta(pattern=rf"\A({'|'.join(words)})\Z")


INT64_MAX = (1 << 63) - 1
EPOCH_BITS = 20
"""A million hand-overs of one group within one incarnation of the store: one each minute for two years."""
INCARNATION_BITS = 43
"""UNIX ms until the year 2248. Together 63 bits, so that a term (hftd/engine/orders/term.py) fits an i64."""
INCARNATION_MAX = (1 << INCARNATION_BITS) - 1
EPOCH_MAX = (1 << EPOCH_BITS) - 1
HOSTS_MAX = 256
INSTANCES_MAX = 64
"""Of one service on one host."""
FUTURE_MS = 24 * 3600 * 1000
"""An incarnation is made from the wall clock (ms); one further ahead than any two clocks differ was not made
by hftctl, and learnt it would stand above every later one."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""0: none."""
Pid = Annotated[int, msgspec.Meta(ge=0, le=1 << 22)]
"""Up to the kernel's PID_MAX_LIMIT; 0: no process."""
Incarnation = Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=EPOCH_MAX)]
Count = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
"""Counters, revisions and the like."""
Number = Annotated[int, msgspec.Meta(ge=-INT64_MAX - 1, le=INT64_MAX)]
WallNs = Annotated[int, msgspec.Meta(ge=0, le=INT64_MAX)]
"""UNIX ns, up to the year 2262."""

Name = Annotated[str, msgspec.Meta(max_length=128, pattern=r"\A[^\x00-\x20\x7f/]*\Z")]
"""Of a service, an instance, a host: part of a key, of a file's name, of a line. Empty: none."""
Word = Annotated[str, msgspec.Meta(max_length=64)]
"""A state, a cause, a kind."""
TEXT_MAX = 4096
Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
"""A reason, an alarm. Who makes one from parts that it has not bounded cuts it (`cut`)."""
Url = Annotated[
    str, msgspec.Meta(max_length=512, pattern=r"\A(https?://[^\x00-\x20\x7f/@]+(:[0-9]{1,5})?/?)?\Z")
]
"""http://ADDRESS:PORT; empty: not known yet."""
Endpoint = Annotated[str, msgspec.Meta(max_length=512, pattern=r"\Aipc://[^\x00-\x20\x7f]+\Z")]
"""Of a ZeroMQ socket. Daemons bind no other kind, so one over TCP was not written by an agent of ours."""
Endpoints = Annotated[Mapping[Name, Endpoint], msgspec.Meta(max_length=32)]
"""Name of the socket -> where it is bound."""
Tags = Annotated[tuple[Word, ...], msgspec.Meta(max_length=32)]
Weight = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
"""As Consul takes it."""
Meta = Annotated[Mapping[Name, Annotated[str, msgspec.Meta(max_length=512)]], msgspec.Meta(max_length=32)]
"""What an operator wants to be found by: name -> value. Consul takes 64 pairs, some of which are ours."""
Probe = Annotated[str, msgspec.Meta(max_length=512, pattern=r"\A((https?|tcp)://[^\x00-\x20\x7f@]+)?\Z")]
"""What Consul probes: an http:// or https:// URL, or tcp://ADDRESS:PORT."""
Metric = Annotated[
    str, msgspec.Meta(max_length=256, pattern=r"\A[A-Za-z_][A-Za-z0-9_]*(\{[^{}\x00-\x1f\x7f]*\})?\Z")
]
"""The name of a counter, perhaps with labels: a line of the metrics page begins with it."""
Counters = Annotated[Mapping[Metric, Number], msgspec.Meta(max_length=256)]
Histograms = Annotated[
    Mapping[Metric, Mapping[Annotated[int, msgspec.Meta(ge=0, le=1023)], Count]],
    msgspec.Meta(max_length=32),
]
"""Sparse log-linear histograms in ns (site/histogram.py): bucket -> count."""
Severity = Annotated[str, one_of("info", "warning", "critical")]
BreakerState = Annotated[
    str, one_of("closed", "open", "half_open", "forced_open", "disabled", "metrics_only")
]
"""A resilience.breaker.State."""
ForcedState = Annotated[str, one_of("forced_open", "disabled", "metrics_only")]
PhaseName = Annotated[str, one_of("starting", "standby", "fencing", "reconciling", "active", "draining")]
"""A model.Phase in lower case."""


def cut(text: str, length: int = TEXT_MAX) -> str:
    """The text, as much of it as a record takes."""
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def believable(incarnation: int, now_ms: int) -> bool:
    """Whether it may have been made by hftctl until `now_ms`, UNIX time."""
    return 0 <= incarnation <= min(now_ms + FUTURE_MS, INCARNATION_MAX)
