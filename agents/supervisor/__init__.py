"""Starting, watching and adopting the host's instances: supervisor (the loop), states (legal moves), program
(what to run), runner and shim (how).
"""

__all__ = [
    "program",
    "runner",
    "states",
    "supervisor",
]
