"""Who serves what: instances are registered, kept registered and taken out; others resolve a service to them.

base.py is the port and what a back end owes it; leased.py keeps registrations as leased keys of the store;
chosen.py says which back end a store has (`registry.of`) and where registrations are read (`registry.watch`);
consul/ keeps them in Consul's catalogue too; by_hand.py has services that are not ours, maintenance.py what
is out of service for a time, program.py a program of one's own; discovery/ is the cache that answers who
serves a service, and chooses one. host/in_thread.py lets a program without an event loop use both.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from controlplane.registry.base import Registry
from controlplane.registry.chosen import of, watch
from controlplane.registry.leased import WARNINGS, LeasedRegistry, decode, to_log

if TYPE_CHECKING:
    from controlplane.registry import discovery
    from controlplane.registry.discovery import Discovery, Serving, discovering
    from controlplane.registry.program import registered, registered_in_thread

__all__ = [
    "WARNINGS",
    "Discovery",
    "LeasedRegistry",
    "Registry",
    "Serving",
    "by_hand",
    "decode",
    "discovering",
    "discovery",
    "maintenance",
    "of",
    "registered",
    "registered_in_thread",
    "to_log",
    "watch",
]

LATE = {
    "Discovery": "discovery",
    "Serving": "discovery",
    "discovering": "discovery",
    "registered": "program",
    "registered_in_thread": "program",
}
"""Imported when first used: a keeper that is started again has a second to renew its leases, and none of
these is for it."""


def __getattr__(name: str) -> Any:
    if name == "discovery":
        return import_module("controlplane.registry.discovery")
    if name not in LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"controlplane.registry.{LATE[name]}"), name)
