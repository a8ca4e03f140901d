"""The store port on Consul 1.14 and newer. How each operation is done there: kv.py; how a call finds a server
that answers: calls.py; how a watch goes on for ever: watch.py; leases are sessions: sessions.py; what an
error means: errors.py. Which parts are the library's and which our own: ADR 0037.
"""

from controlplane.store.consul.client import ConsulStore

__all__ = ["ConsulStore", "blocking", "calls", "http", "versions"]
