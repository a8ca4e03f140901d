"""What a shell completes for `hftctl config`: services, plain keys, and paths into a document with what they
hold. Asked of an agent; without one there is nothing to complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.cli import agent_client, config_ask, config_text

ANSWER_S = 1.0
"""A key was pressed and somebody waits."""


def services(given: Mapping[str, Any]) -> dict[str, str]:
    """Name -> a line of help. So for all below; each raises HftctlError when nobody answers."""
    found = _floor(given).get("/v1/site/config")
    return {row["service"]: f"revision {row['revision']}" for row in found["services"]}


def targets(given: Mapping[str, Any]) -> dict[str, str]:
    keys = _floor(given).get("/v1/site/keys")["keys"]
    return services(given) | {f"/{row['key']}": config_text.shown(row["value"]) for row in keys}


def paths(given: Mapping[str, Any]) -> dict[str, str]:
    """Of the document of the service that the line names."""
    target = given.get("target") or given.get("service")
    if not target or target.startswith("/"):
        return {}
    document = config_ask.service(_floor(given), target)["document"]
    return {path: config_text.shown(value) for path, value in config_text.leaves(document or {})}


def instances(given: Mapping[str, Any]) -> dict[str, str]:
    """Of that service."""
    target = given.get("target") or given.get("service")
    rows = config_ask.service(_floor(given), target)["instances"] if target else ()
    return {row["id"]: row["state"] for row in rows}


def assignments(given: Mapping[str, Any]) -> dict[str, str]:
    return {f"{path}=": value for path, value in paths(given).items()}


def _floor(given: Mapping[str, Any]) -> agent_client.Floor:
    return agent_client.Floor(given.get("site_dir"), ANSWER_S)
