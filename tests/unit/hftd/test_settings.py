"""Which settings of the daemons change while they run, and why the others do not."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from typing import Any

import pytest

from hftd import catalogue
from hftd.runtime import in_force

NOT_LIVE = {
    "strategyd": {"strategy": "another one knows nothing of the orders that work."},
    "riskd": {},
    "positiond": {},
    "auditd": {},
    "simd": {
        "tape": "another tape is another market, and books and orders are of the old one.",
        "seed": "another seed is another market, and books and orders are of the old one.",
        "instruments": "books and accounts are kept in these units.",
        "exchange_info": "books and accounts are kept in these units.",
    },
    "marketd": {
        "files": "they are opened once, and read to their end.",
        "instruments": "books are kept in these units.",
        "exchange_info": "books are in these units.",
    },
    "bookd": {},
    "omsd": {},
    "execd": {},
}
"""Daemon -> field that only a restart changes -> why, as its docstring says."""

SERVICES = {
    "strategyd": ["tops", "risk", "positions"],
    "riskd": ["tops", "positions"],
    "positiond": ["tops"],
    "auditd": [],
    "simd": [],
    "marketd": ["feed"],
    "bookd": ["market"],
    "omsd": ["risk", "execution", "positions", "audit"],
    "execd": ["orders", "venue"],
}
"""Fields that name a service: services.yml alone says who uses whom."""

ABOUT = {"log_level": "The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."}


def said(settings: type[Any]) -> dict[str, str]:
    """Field -> its docstring, on one line."""
    (body,) = ast.parse(inspect.getsource(settings)).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else ""
            )
            found[node.target.id] = " ".join(str(text).split())
    return found


@pytest.mark.parametrize("name", sorted(NOT_LIVE))
def test_every_setting_is_live_but_those_listed_here_with_their_reason(name: str) -> None:
    settings = catalogue.kind_of(name).settings
    docstrings = said(settings)
    marked = [each.name for each in fields(settings) if each.metadata.get("restart")]
    assert {each: docstrings[each].partition("Not live: ")[2] for each in marked} == NOT_LIVE[name]
    services = [each.name for each in fields(settings) if "service" in each.metadata]
    assert services == SERVICES[name]
    assert in_force.restarts(settings()) == {*marked, *services}
    assert not [each for each, text in docstrings.items() if "Not live" in text and each not in marked]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_daemon_of_ours_takes_settings_while_it_runs_and_has_a_log_level(name: str) -> None:
    kind = catalogue.kind_of(name)
    assert kind.live
    assert kind.settings().log_level == ""
    assert said(kind.settings)["log_level"] == ABOUT["log_level"]
    with pytest.raises(Exception, match="log_level"):
        catalogue.settings_of(kind, {"log_level": "loud"}, "x")
