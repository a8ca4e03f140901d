"""Health checks as data: what a service's `checks` in services.yml may be, one struct a kind.

The kind is written beside the fields (`kind: http`), in the file as in the store. A time is in seconds. Who
reads them from a file, with a line for each mistake: specs/check_entry.py. What a result does to a check's
state: controlplane/health. Who carries them out: agents/checks. Each kind with an example:
docs/health-checks.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from controlplane.model.bounds import Name

State = Literal["passing", "warning", "critical"]
CHECKS_MAX = 32
"""Of one service."""
TARGET_CHARS_MAX = 512
PLACEHOLDERS = ("service", "instance", "host", "address", "health_port")
"""What `{...}` in a target may name; each instance of the service has its own. `address` is that of its host,
`health_port` 0 where the service has none."""

Seconds = Annotated[float, msgspec.Meta(ge=0.1, le=86_400)]
DurationOrNever = Annotated[float, msgspec.Meta(ge=0, le=864_000)]
"""Seconds; 0: never."""
Repeats = Annotated[int, msgspec.Meta(ge=1, le=10)]
Words = Annotated[str, msgspec.Meta(min_length=1, max_length=TARGET_CHARS_MAX)]
CheckName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[a-z][a-z0-9]*([-_][a-z0-9]+)*\Z")]
HttpUrl = Annotated[
    str,
    msgspec.Meta(max_length=TARGET_CHARS_MAX, pattern=r"\Ahttps?://[^\x00-\x20\x7f/@?#]+[^\x00-\x20\x7f]*\Z"),
]
TcpAddress = Annotated[
    str,
    msgspec.Meta(
        max_length=TARGET_CHARS_MAX,
        pattern=r"\A(unix:/[^\x00-\x20\x7f]+|(\[[0-9a-fA-F:.]+\]|[^\x00-\x20\x7f:/@\[\]]+):([0-9]{1,5}|\{[a-z_]+\}))\Z",
    ),
]
"""HOST:PORT, [IPV6]:PORT or unix:/PATH."""
ZmqEndpoint = Annotated[
    str,
    msgspec.Meta(
        max_length=TARGET_CHARS_MAX,
        pattern=r"\A((tcp|ipc)://[^\x00-\x20\x7f]+|[A-Za-z][A-Za-z0-9_.-]*)\Z",
    ),
]
"""tcp://HOST:PORT, ipc:///PATH, or the name of an endpoint that the instance reports."""
AbsolutePath = Annotated[str, msgspec.Meta(max_length=TARGET_CHARS_MAX, pattern=r"\A/[^\x00-\x1f\x7f]+\Z")]
Program = Annotated[str, msgspec.Meta(max_length=128, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")]
"""A file's name in the host's own folder of check scripts; never a path."""
Argument = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"\A[^\x00]*\Z")]
HttpStatus = Annotated[int, msgspec.Meta(ge=100, le=599)]
HeaderName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"\A[A-Za-z0-9-]+\Z")]
HeaderValue = Annotated[str, msgspec.Meta(max_length=512, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
ClockSource = Annotated[
    str,
    msgspec.Meta(
        max_length=TARGET_CHARS_MAX, pattern=r"\A(kernel|chrony|ntp://[^\x00-\x20\x7f:/@]+(:[0-9]{1,5})?)\Z"
    ),
]
UserName = Annotated[str, msgspec.Meta(max_length=32, pattern=r"\A([a-z_][a-z0-9_-]*)?\Z")]
"""Empty: the agent's own user."""


class Check(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds have. The defaults are those of Consul's own checks, but for `failures`."""

    name: CheckName
    interval_s: Seconds = 10.0
    timeout_s: Seconds = 5.0
    successes: Repeats = 1
    """So many better results in a row before the state gets better."""
    failures: Repeats = 3
    """So many worse results in a row before the state gets worse: one lost packet is no fault."""
    initial: State = "warning"
    """Until the first results: nothing is known, so it is not passing."""
    deregister_after_s: DurationOrNever = 90.0
    """Critical for so long, the instance's registration is taken out until the check passes again."""


class ProcessCheck(Check, frozen=True, kw_only=True, tag="process"):
    """The instance's process runs and is in no crash loop. Every instance has it, named or not."""

    interval_s: Seconds = 1.0
    failures: Repeats = 1
    deregister_after_s: DurationOrNever = 0.0
    """An instance without a process has no registration in any case."""


class HeartbeatCheck(Check, frozen=True, kw_only=True, tag="heartbeat"):
    """The daemon's loop turns and it says that it is well. Every instance has it, named or not."""

    interval_s: Seconds = 1.0
    failures: Repeats = 1
    deregister_after_s: DurationOrNever = 0.0
    """A leader that says it is unwell may still be the only one that trades: an operator decides."""


class HttpCheck(Check, frozen=True, kw_only=True, tag="http"):
    """2xx passes, `warning_statuses` warn, all else is critical; a redirect is not followed."""

    url: HttpUrl
    method: Literal["GET", "HEAD"] = "GET"
    headers: Annotated[Mapping[HeaderName, HeaderValue], msgspec.Meta(max_length=16)] = {}
    warning_statuses: Annotated[tuple[HttpStatus, ...], msgspec.Meta(max_length=16)] = (429,)
    contains: Annotated[str, msgspec.Meta(max_length=TARGET_CHARS_MAX)] = ""
    """What the first 64 KB of the body must have in them; empty: anything."""
    ca_file: Annotated[str, msgspec.Meta(max_length=TARGET_CHARS_MAX)] = ""
    """Of https; empty: the system's."""


class TcpCheck(Check, frozen=True, kw_only=True, tag="tcp"):
    """Something accepts connections there."""

    address: TcpAddress


class ZmqCheck(Check, frozen=True, kw_only=True, tag="zeromq"):
    """A ROUTER or REP answers a ping: the frames (empty, `send`)."""

    endpoint: ZmqEndpoint
    send: Words = "PING"
    expect: Annotated[str, msgspec.Meta(max_length=TARGET_CHARS_MAX)] = ""
    """What the answer must have in it; empty: any answer."""


class ScriptCheck(Check, frozen=True, kw_only=True, tag="script"):
    """Exit 0 passes, 1 warns, all else is critical. No shell looks at the arguments."""

    program: Program
    arguments: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=64)] = ()
    user: UserName = ""
    memory_mb: Annotated[int, msgspec.Meta(ge=16, le=65_536)] = 512
    """Address space of each of its processes."""


class TtlCheck(Check, frozen=True, kw_only=True, tag="ttl"):
    """Something calls in (docs/health-checks.md); critical when it has not for `ttl_s`."""

    ttl_s: Seconds
    interval_s: Seconds = 1.0
    failures: Repeats = 1


class FileAgeCheck(Check, frozen=True, kw_only=True, tag="file_age"):
    """A file was written lately; critical where it is missing."""

    path: AbsolutePath
    critical_s: Seconds
    warning_s: DurationOrNever = 0.0


class ClockCheck(Check, frozen=True, kw_only=True, tag="clock_offset"):
    """How far this host's clock is off: by the kernel's own estimate, by chrony's, or by an NTP server's."""

    source: ClockSource = "kernel"
    critical_ms: Annotated[float, msgspec.Meta(ge=0.001, le=3_600_000)]
    warning_ms: Annotated[float, msgspec.Meta(ge=0, le=3_600_000)] = 0.0
    """0: no warning before it is critical."""


class GrpcCheck(Check, frozen=True, kw_only=True, tag="grpc"):
    """grpc.health.v1.Health/Check says SERVING."""

    address: TcpAddress
    grpc_service: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """As the server names it; empty: the server as a whole."""


class AliasCheck(Check, frozen=True, kw_only=True, tag="alias"):
    """As another service of the site is: passing when all its instances are, critical when none is."""

    of: Name
    interval_s: Seconds = 1.0


AnyCheck = (
    ProcessCheck
    | HeartbeatCheck
    | HttpCheck
    | TcpCheck
    | ZmqCheck
    | ScriptCheck
    | TtlCheck
    | FileAgeCheck
    | ClockCheck
    | GrpcCheck
    | AliasCheck
)
KINDS: Mapping[str, type[Check]] = {
    str(kind.__struct_config__.tag): kind
    for kind in (
        ProcessCheck,
        HeartbeatCheck,
        HttpCheck,
        TcpCheck,
        ZmqCheck,
        ScriptCheck,
        TtlCheck,
        FileAgeCheck,
        ClockCheck,
        GrpcCheck,
        AliasCheck,
    )
}


def kind_of(check: Check) -> str:
    """As it is written."""
    return str(check.__struct_config__.tag)
