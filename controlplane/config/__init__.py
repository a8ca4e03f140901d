"""Configuration: one versioned document a service, and plain keys, in the store.

documents.py (paths, differences, three sides merged) is pure; revisions.py, staged.py (a rollout under way)
and plain.py write the records of model/config.py. Of a rollout, canary.py says who has it first, condition.py
which metric is watched, and rollout.py what comes next; all three are pure. Who may write what, checked and
recorded: operations/config_change.py and config_rollout.py. library.py is for other programs
(`config.connect`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from controlplane.config import canary, condition, documents, plain, revisions, rollout, staged

if TYPE_CHECKING:
    from controlplane.config.library import Blocking, Config, connect, connect_in_thread

__all__ = [
    "Blocking",
    "Config",
    "canary",
    "condition",
    "connect",
    "connect_in_thread",
    "documents",
    "plain",
    "revisions",
    "rollout",
    "staged",
]

LATE = frozenset({"Blocking", "Config", "connect", "connect_in_thread"})
"""Imported when first used: an agent and a verb need none of them."""


def __getattr__(name: str) -> Any:
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("controlplane.config.library"), name)
