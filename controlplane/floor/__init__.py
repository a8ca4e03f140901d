"""The laptop's floor: `up` and `down`, hft-floord between them, and the store that it embeds.

The verbs use up.py, wait.py, down.py, backups.py, run_file.py, ports.py and folders.py; hft-floord is
floord.py, over child.py, processes.py and incarnation.py. embedded.py chooses the store, etcd.py is one.
Nothing here knows a service: those are in the store (controlplane/specs).
"""

__all__ = [
    "backups",
    "consul_doors",
    "down",
    "embedded",
    "etcd_versions",
    "folders",
    "ownership",
    "ports",
    "processes",
    "run_file",
    "up",
    "wait",
    "watch_screen",
]
