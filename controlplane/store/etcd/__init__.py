"""The store port on etcd 3.4 to 3.7, by a thin client of our own (ADR 0001).

client.py (the operations) · calls.py (endpoints, deadlines) · watch.py · errors.py · rpc/ (the protocol).
Importing this costs grpc: 100 ms and 20 MB.
"""

import os

# grpc's own lines on stderr say of each refused connection what the error says once, in our words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from controlplane.store.etcd.client import EtcdStore

__all__ = [
    "EtcdStore",
]
