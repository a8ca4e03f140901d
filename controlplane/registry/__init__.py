"""Who serves what: instances are registered, kept registered and taken out; others resolve a service to them.

base.py is the port and what a back end owes it; leased.py keeps registrations as leased keys of the store;
chosen.py says which back end a store has (`registry.of`) and where registrations are read (`registry.watch`);
consul/ keeps them in Consul's catalogue too; by_hand.py has services that are not ours, maintenance.py what
is out of service for a time, registered.py a program of one's own; discovery/ is the cache that answers who
serves a service, and chooses one; in_thread.py lets a program without an event loop use both.
"""

from controlplane.registry.base import Registry
from controlplane.registry.chosen import of, watch
from controlplane.registry.discovery import Discovery, Serving, discovering
from controlplane.registry.leased import WARNINGS, LeasedRegistry, decode, to_log
from controlplane.registry.registered import registered, registered_in_thread

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
