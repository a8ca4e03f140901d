"""Who serves what: instances are registered, kept registered and taken out; others resolve a service to them.

base.py is the port and what a back end owes it; leased.py keeps registrations as leased keys of the store;
chosen.py says which back end a store has (`registry.of`) and where registrations are read (`registry.watch`);
discovery.py turns what the store shows into instances, endpoints and roles, and asks nobody.
"""

from controlplane.registry.base import Registry
from controlplane.registry.chosen import of, watch
from controlplane.registry.discovery import Serving, View, decode, resolve, serving
from controlplane.registry.leased import KEEP_S, TTL_S, WARNINGS, LeasedRegistry, to_log

__all__ = [
    "KEEP_S",
    "TTL_S",
    "WARNINGS",
    "LeasedRegistry",
    "Registry",
    "Serving",
    "View",
    "by_hand",
    "decode",
    "maintenance",
    "of",
    "resolve",
    "serving",
    "to_log",
    "watch",
]
