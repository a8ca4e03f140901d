"""A document held against the schema of its daemon: the same check that services.yml gets, with dotted paths
instead of lines; and which of a daemon's settings only a restart changes.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from controlplane.config import documents
from controlplane.errors import InvalidInput
from controlplane.model.specs import DaemonKind
from controlplane.specs import schema
from controlplane.specs.schema import Lines, Problem

FINDINGS_MAX = 20
"""In one refusal."""
_INDEX = re.compile(r"\[(\d+)\]")


def complete(settings: Any) -> dict[str, object]:
    """All settings as plain JSON values, so that what was just read equals what comes back from the store."""
    plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(asdict(settings)))
    return plain


def check(kind: DaemonKind, document: Mapping[str, Any], service: str) -> dict[str, Any]:
    """The document as it is stored: complete, with the daemon's defaults where it says nothing.

    Raises:
        InvalidInput: one line a fault, with the path, what was found and what was wanted. TooLarge.
    """
    documents.encoded(document, f"configuration of {service}")
    findings: list[Problem] = []
    try:
        settings = schema.convert(document, kind.settings, "", "", Lines(0), findings)
    except RecursionError as exc:
        raise InvalidInput(
            f"{service}: found hundreds of levels inside each other, wanted a document"
        ) from exc
    if findings:
        raise InvalidInput("\n".join(_said(each, service) for each in findings[:FINDINGS_MAX]))
    found = complete(settings)
    documents.encoded(found, f"configuration of {service}")
    return found


def _said(problem: Problem, service: str) -> str:
    path = _INDEX.sub(r".\1", problem.field)
    at = f"{service}: {path}" if path else service
    return str(dataclasses.replace(problem, file=at, line=0, field=""))


def check_here(kind: DaemonKind, document: Mapping[str, Any], service: str) -> None:
    """What only this machine can say of it, such as what is in a file that it names. It may read files.
    Raises InvalidInput.
    """
    if kind.check is not None:
        try:
            kind.check(msgspec.convert(document, kind.settings))
        except InvalidInput as exc:
            raise InvalidInput(f"service {service!r}: {exc}") from exc


def restart_fields(kind: DaemonKind) -> tuple[str, ...]:
    """The settings, by their names at the top, that only a restart changes: those that the daemon says, those
    that name a service, and all of a daemon that takes none while it runs.
    """
    return tuple(
        each.name
        for each in dataclasses.fields(kind.settings)
        if not kind.live or _restarts(each, kind.settings)
    )


def _restarts(each: dataclasses.Field[Any], owner: type) -> bool:
    if each.metadata.get("restart") or "service" in each.metadata:
        return True
    hint = typing.get_type_hints(owner)[each.name]
    return any(
        _restarts(below, inner)
        for inner in (hint, *typing.get_args(hint))
        if dataclasses.is_dataclass(inner) and isinstance(inner, type)
        for below in dataclasses.fields(inner)
    )


def service_fields(kind: DaemonKind) -> frozenset[str]:
    """The settings at the top that name a service."""
    return frozenset(each.name for each in dataclasses.fields(kind.settings) if "service" in each.metadata)


def services_named(kind: DaemonKind, document: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Path -> services that the setting names."""
    found: dict[str, tuple[str, ...]] = {}
    for path, _, name, _ in schema.references(msgspec.convert(document, kind.settings)):
        found[path] = (*found.get(path, ()), name)
    return found
