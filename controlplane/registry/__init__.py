"""Who serves what: instances are registered, kept registered and taken out; others resolve a service to them.

base.py is the port and what a back end owes it; leased.py keeps registrations as leased keys of the store;
discovery.py turns what the store shows into instances, endpoints and roles, and asks nobody.
"""

from controlplane.registry.base import Registry as Registry
from controlplane.registry.discovery import Serving as Serving
from controlplane.registry.discovery import View as View
from controlplane.registry.discovery import decode as decode
from controlplane.registry.discovery import resolve as resolve
from controlplane.registry.discovery import serving as serving
from controlplane.registry.leased import KEEP_S as KEEP_S
from controlplane.registry.leased import TTL_S as TTL_S
from controlplane.registry.leased import WARNINGS as WARNINGS
from controlplane.registry.leased import LeasedRegistry as LeasedRegistry
