"""What a daemon keeps on disk, each with what it promises over kill -9 and over a power cut.

Others use journal.py (records in segments, synced behind the writer), fences.py (the highest token of each
group), position_log.py, audit_log.py and audit_verify.py. segments.py and sync_thread.py are the journal's,
heights.py is of the fences.
"""

__all__ = [
    "audit_log",
    "audit_verify",
    "fences",
    "journal",
    "position_log",
]
