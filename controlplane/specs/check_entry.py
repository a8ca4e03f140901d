"""The `checks` of one service of services.yml: each field held against the struct of its kind
(model/checks.py), every mistake with its line and with what is wanted in an operator's words.

What lies between services (an alias of a service that is not there, or of itself in the end) is `aliases`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from controlplane.model import checks
from controlplane.model.bounds import Name
from controlplane.specs import schema
from controlplane.specs.schema import Lines, Problem

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_FREE_OF_PLACEHOLDERS = ("name", "initial", "method", "headers", "contains", "send", "expect", "user")

WANTED: Mapping[str, str] = {
    "name": "a name of lower-case letters, digits, - and _, at most 64",
    "interval_s": "a number of seconds from 0.1 to 86400",
    "timeout_s": "a number of seconds from 0.1 to 86400",
    "successes": "a whole number from 1 to 10",
    "failures": "a whole number from 1 to 10",
    "initial": "one of passing, warning, critical",
    "deregister_after_s": "a number of seconds from 0 (never) to 864000",
    "url": "http://HOST[:PORT]/... or https://...",
    "method": "one of GET, HEAD",
    "headers": "a mapping of at most 16 names to texts",
    "warning_statuses": "a list of HTTP statuses from 100 to 599",
    "contains": "a text of at most 512 characters",
    "ca_file": "the path of a file of certificates",
    "address": "HOST:PORT or unix:/PATH",
    "endpoint": "tcp://HOST:PORT, ipc:///PATH, or the name of an endpoint of the instance",
    "send": "a text of 1 to 512 characters",
    "expect": "a text of at most 512 characters",
    "program": "the name of a file in the folder of check scripts, without a path or arguments",
    "arguments": "a list of at most 64 texts",
    "user": "the name of a user, or nothing for the agent's own",
    "memory_mb": "a whole number from 16 to 65536",
    "ttl_s": "a number of seconds from 0.1 to 86400",
    "path": "an absolute path",
    "critical_s": "a number of seconds from 0.1 to 86400",
    "warning_s": "a number of seconds from 0 (no warning) to 864000",
    "source": "one of kernel, chrony, ntp://HOST[:PORT]",
    "critical_ms": "a number of milliseconds from 0.001 to 3600000",
    "warning_ms": "a number of milliseconds from 0 (no warning) to 3600000",
    "grpc_service": "a text of at most 256 characters",
    "of": "the name of another service of this file",
}
"""By field: what it means is the same in each kind that has it."""


def read(given: object, file: str, path: str, lines: Lines, findings: list[Problem]) -> tuple[Any, ...]:
    """The checks of one service; where something is wrong, findings say it, and what comes back is no use.
    `path`: of the list, `lines`: its own.
    """
    if not isinstance(given, list):
        wanted = f"a list of at most {checks.CHECKS_MAX} checks"
        findings.append(Problem(file, lines.line, path, schema.shown(given), wanted))
        return ()
    if len(given) > checks.CHECKS_MAX:
        wanted = f"at most {checks.CHECKS_MAX} checks of one service"
        findings.append(Problem(file, lines.line, path, f"{len(given)} checks", wanted))
        return ()
    found: list[checks.Check] = []
    first: dict[str, int] = {}
    for index, each in enumerate(given):
        below = lines.child(index)
        at = f"{path}[{index}]"
        check = _one(each, file, at, below, findings)
        if check is None:
            continue
        key = f"name {check.name}"
        if isinstance(check, checks.ProcessCheck | checks.HeartbeatCheck):
            key = f"kind {checks.kind_of(check)}"  # the one that every instance has, under other terms
        if key in first:
            field, _, value = key.partition(" ")
            wanted = f"each {field} once in a service (first on line {first[key]})"
            findings.append(Problem(file, below.line_of(field), f"{at}.{field}", schema.shown(value), wanted))
        first.setdefault(key, below.line)
        found.append(check)
    return tuple(found)


def of_a_group(given: object, file: str, path: str, lines: Lines, findings: list[Problem]) -> None:
    """What a service with a leader may not ask for: fencing finds a member by its registration."""
    for index, each in enumerate(given if isinstance(given, list) else ()):
        asked = each.get("deregister_after_s") if isinstance(each, dict) else None
        if asked:
            line = lines.child(index).line_of("deregister_after_s")
            wanted = (
                "0, or left out, as the mode is active_standby: fencing finds its members by registration"
            )
            field = f"{path}[{index}].deregister_after_s"
            findings.append(Problem(file, line, field, schema.shown(asked), wanted))


def _one(given: object, file: str, path: str, lines: Lines, findings: list[Problem]) -> checks.Check | None:
    if not isinstance(given, dict):
        wanted = "a mapping of name, kind and the kind's own fields"
        findings.append(Problem(file, lines.line, path, schema.shown(given), wanted))
        return None
    said = given.get("kind")
    kind = checks.KINDS.get(said) if isinstance(said, str) else None
    if kind is None:
        wanted = f"one of {', '.join(checks.KINDS)}"
        findings.append(Problem(file, lines.line_of("kind"), f"{path}.kind", schema.shown(said), wanted))
        return None
    before = len(findings)
    known = {each.name: each for each in msgspec.structs.fields(kind)}
    for key, value in given.items():
        if key == "kind":
            continue
        wanted = f"one of kind, {', '.join(known)}"
        if key in known:
            wanted = _wanted(key, value, known[key].type)
        if wanted:
            findings.append(Problem(file, lines.line_of(key), f"{path}.{key}", schema.shown(value), wanted))
    for name, each in known.items():
        if each.required and name not in given:
            findings.append(Problem(file, lines.line, f"{path}.{name}", "nothing", WANTED[name]))
    if len(findings) > before:
        return None
    check: checks.Check = msgspec.convert(
        {key: value for key, value in given.items() if key != "kind"} | {"kind": said}, kind
    )
    for field, found, wanted in _misfits(check):
        line = lines.line_of(field)
        findings.append(Problem(file, line, f"{path}.{field}", schema.shown(found), wanted))
    return check if len(findings) == before else None


def _wanted(field: str, value: object, kind: Any) -> str:
    """What is wanted instead of a value; empty: it is good."""
    for name in _placeholders(field, value):
        if name not in checks.PLACEHOLDERS:
            return f"a placeholder of {', '.join(f'{{{each}}}' for each in checks.PLACEHOLDERS)}"
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return WANTED[field]
    return ""


def _placeholders(field: str, value: object) -> Iterator[str]:
    if field in _FREE_OF_PLACEHOLDERS:
        return
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            yield from _PLACEHOLDER.findall(text)


def _misfits(check: checks.Check) -> Iterator[tuple[str, object, str]]:
    """(field, found, wanted) of fields that are good by themselves and do not fit together."""
    match check:
        case checks.FileAgeCheck() if check.warning_s >= check.critical_s:
            yield "warning_s", check.warning_s, f"less than critical_s ({check.critical_s:g})"
        case checks.ClockCheck() if check.warning_ms >= check.critical_ms:
            yield "warning_ms", check.warning_ms, f"less than critical_ms ({check.critical_ms:g})"
        case checks.TcpCheck() | checks.GrpcCheck():
            port = check.address.rpartition(":")[2]
            if port.isdecimal() and not 0 < int(port) < 65536:
                yield "address", check.address, "a port from 1 to 65535"
        case checks.HttpCheck() if not _good_authority(check.url):
            yield "url", check.url, WANTED["url"]
        case _:
            pass


def _good_authority(url: str) -> bool:
    """Its host is not empty, and its port, if it says one, is a port."""
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}|\{[a-z_]+\}))?", authority)
    return found is not None and (found[2] is None or found[2][0] == "{" or 0 < int(found[2]) < 65536)


def aliases(of: Mapping[str, Sequence[checks.Check]]) -> Iterator[tuple[str, int, str]]:
    """(service, index of the check, what is wanted) of each alias that cannot be judged: its service is not
    in the file, or it ends at itself, so that two services that are critical would stay so for ever.
    """
    targets = {
        service: [check.of for check in own if isinstance(check, checks.AliasCheck)]
        for service, own in of.items()
    }
    for service, own in of.items():
        for index, check in enumerate(own):
            if not isinstance(check, checks.AliasCheck):
                continue
            if check.of not in of:
                yield service, index, f"a service of this file ({', '.join(sorted(of))})"
            elif service in _reached(check.of, targets):
                yield service, index, f"a service whose health does not depend on {service}'s own"


def _reached(start: str, targets: Mapping[str, Sequence[Name]]) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += targets.get(name, ())
    return seen
