"""Configuration: one versioned document a service, and plain keys, in the store.

documents.py (paths, differences, three sides merged) is pure; revisions.py and plain.py write the records of
model/config.py. Who may write what, checked and recorded: operations/config_change.py.
"""

from controlplane.config import documents, plain, revisions

__all__ = [
    "documents",
    "plain",
    "revisions",
]
