"""One thing that was looked at. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SEVERITIES = ("ok", "info", "warning", "critical")
"""Rising; `info` is what could not be looked at, or is only to be known."""


@dataclass(frozen=True, slots=True)
class Finding:
    id: str
    """What was looked at, stable: scripts tell findings apart by it."""
    severity: str
    """One of SEVERITIES."""
    subject: str
    """A host, a file, a store's server."""
    found: str
    wanted: str = ""
    remedy: str = ""
    """A command, where there is one."""


def worst(findings: Iterable[Finding]) -> str:
    """Of none: ok."""
    return max((each.severity for each in findings), key=SEVERITIES.index, default="ok")


def document(findings: Iterable[Finding]) -> Mapping[str, object]:
    """`hftctl doctor -o json`."""
    rows = sorted(findings, key=lambda each: -SEVERITIES.index(each.severity))
    fields = ("id", "severity", "subject", "found", "wanted", "remedy")
    return {"worst": worst(rows), "findings": [{name: getattr(row, name) for name in fields} for row in rows]}
