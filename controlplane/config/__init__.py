"""Configuration: one versioned document a service, and plain keys, in the store.

documents.py (paths, differences, three sides merged) is pure; revisions.py and plain.py write the records of
model/config.py. Of a rollout, canary.py says who has it first, condition.py which metric is watched, and
rollout.py what comes next; all three are pure. Who may write what, checked and recorded:
operations/config_change.py and config_rollout.py.
"""

from controlplane.config import canary, condition, documents, plain, revisions, rollout

__all__ = [
    "canary",
    "condition",
    "documents",
    "plain",
    "revisions",
    "rollout",
]
