"""Who serves what: instances are registered, kept registered and taken out; others resolve a service to them.

base.py is the port and what a back end owes it; leased.py keeps registrations as leased keys of the store;
chosen.py says which back end a store has (`registry.of`) and where registrations are read (`registry.watch`);
consul/ keeps them in Consul's catalogue too; by_hand.py has services that are not ours, maintenance.py what
is out of service for a time, registered.py a program of one's own; discovery.py turns what the store shows
into instances, endpoints and roles, and asks nobody.
"""

from controlplane.registry.base import Registry
from controlplane.registry.chosen import of, watch
from controlplane.registry.discovery import Serving, View, decode, resolve, serving
from controlplane.registry.leased import WARNINGS, LeasedRegistry, to_log
from controlplane.registry.registered import registered, registered_in_thread

__all__ = [
    "WARNINGS",
    "LeasedRegistry",
    "Registry",
    "Serving",
    "View",
    "by_hand",
    "decode",
    "maintenance",
    "of",
    "registered",
    "registered_in_thread",
    "resolve",
    "serving",
    "to_log",
    "watch",
]
