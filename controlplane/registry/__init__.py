"""Who serves what: instances are registered, kept registered and taken out; others resolve a service to them.

base.py is the port and what a back end owes it; leased.py keeps registrations as leased keys of the store;
chosen.py says which back end a store has (`registry.of`) and where registrations are read (`registry.watch`);
discovery/ is the cache that answers who serves a service, and chooses one; in_thread.py lets a program
without an event loop use both.
"""

from controlplane.registry.base import Registry
from controlplane.registry.chosen import of, watch
from controlplane.registry.discovery import Discovery, Serving, discovering
from controlplane.registry.leased import KEEP_S, TTL_S, WARNINGS, LeasedRegistry, decode

__all__ = [
    "KEEP_S",
    "TTL_S",
    "WARNINGS",
    "Discovery",
    "LeasedRegistry",
    "Registry",
    "Serving",
    "decode",
    "discovering",
    "discovery",
    "of",
    "watch",
]
