"""What `hftctl endpoints` shows is what discovery has."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry import endpoint_rows
from controlplane.registry.discovery import serving
from controlplane.site import document

PROCESS = Process("bookd-alpha-1", "boot", 1, 1)
REGISTERED = Registration(
    "bookd", PROCESS.instance, "alpha", PROCESS, {"tops": "ipc://t"}, "10.0.0.1", 9, 1, "2"
)


def row(known: document.InstanceRow | None = None, **changed: Any) -> dict[str, Any]:
    found = serving.serving([dataclasses.replace(REGISTERED, **changed)])
    [shown] = endpoint_rows.rows(found, {known.id: known} if known else {})
    return shown


def known(health: str, reason: str = "") -> document.InstanceRow:
    fields: dict[str, Any] = dict.fromkeys(document.InstanceRow.__struct_fields__)
    return document.InstanceRow(**{**fields, "id": PROCESS.instance, "health": health, "reason": reason})


def test_the_keys_that_scripts_rely_on_are_there_and_come_first() -> None:
    shown = row(zone="r1", weight=3, tags=("a",))
    assert list(shown)[:5] == ["instance", "host", "role", "health", "endpoints"]
    assert msgspec.json.decode(msgspec.json.encode(shown)) == {
        "instance": "bookd-alpha-1",
        "host": "alpha",
        "role": None,
        "health": "passing",
        "endpoints": {"tops": "ipc://t"},
        "maintenance": "",
        "reason": "",
        "epoch": 0,
        "address": "10.0.0.1",
        "port": 9,
        "zone": "r1",
        "weight": 3,
        "version": "2",
        "tags": ["a"],
        "meta": {},
        "registry": "passing",
    }


@pytest.mark.parametrize(
    ("registered", "agent", "shown"),
    [
        ("passing", "critical", "critical"),
        ("critical", "passing", "critical"),
        ("warning", "passing", "warning"),
        ("warning", "critical", "critical"),
        ("critical", None, "critical"),
    ],
)
def test_the_health_is_the_worse_of_what_the_registry_has_and_what_its_agent_says(
    registered: str, agent: str | None, shown: str
) -> None:
    assert row(known(agent, "why") if agent else None, health=registered)["health"] == shown


def test_the_agent_s_reason_is_shown_with_its_verdict_alone() -> None:
    assert row(known("critical", "no status for 4 s"))["reason"] == "no status for 4 s"
    assert row(known("passing", "x"), health="critical")["reason"] == ""


def test_maintenance_is_shown_with_its_reason() -> None:
    assert row(maintenance="new disk")["maintenance"] == "new disk"
