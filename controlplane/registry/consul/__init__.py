"""Registrations as real services of Consul's catalogue, with Consul's own checks, so that `consul catalog`,
DNS and its UI show what `hftctl endpoints` shows.

What is said to Consul and read back, pure: definition.py; the calls to the host's own agent: local_agent.py;
keeping them registered there: services.py; both halves of a registration together: registry.py; following the
catalogue: rows.py and watch.py; py-consul, for scripts: library.py. Why a registration stands in the KV as
well: ADR 0039.
"""

from controlplane.registry.consul.definition import CheckTimes
from controlplane.registry.consul.registry import ConsulRegistry
from controlplane.registry.consul.watch import CatalogueWatch

__all__ = ["CatalogueWatch", "CheckTimes", "ConsulRegistry", "definition", "library", "local_agent"]
