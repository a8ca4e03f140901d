"""The store port on etcd 3.4 to 3.7, by a thin client of our own (ADR 0001).

client.py (the operations) · calls.py (endpoints, deadlines) · watch.py · errors.py · rpc/ (the protocol).
Importing this costs grpc: 100 ms and 20 MB.
"""

from controlplane.store.etcd.client import EtcdStore

__all__ = [
    "EtcdStore",
]
