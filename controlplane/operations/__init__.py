"""Changes that an operator or the system sets out to make, one a file: checked, written, waited for,
recorded.

failover.py moves the lead of a group, fence_reset.py sets its receivers' fences to what the store holds.
log.py writes the record of each, archive.py moves the oldest from the store to the disk, shown.py is what
people are told of them.
"""

__all__ = ["archive", "failover", "fence_reset", "log", "shown"]
