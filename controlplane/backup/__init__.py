"""A site's keys in one file: taken from either store (taking.py), put back into either (restoring.py).

The file's format is file.py, beside docs/protocol.md; when the elected controller takes one and how many are
kept, schedule.py and scheduled.py; what the store's own tool would restore, native.py.
"""

from controlplane.backup import file, native, schedule
from controlplane.backup.restoring import Restored, half_way, restore, running
from controlplane.backup.scheduled import Scheduled
from controlplane.backup.taking import Taken, take

__all__ = [
    "Restored",
    "Scheduled",
    "Taken",
    "file",
    "half_way",
    "native",
    "restore",
    "running",
    "schedule",
    "take",
]
