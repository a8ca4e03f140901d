"""What a daemon keeps on disk, each with what it promises over kill -9 and over a power cut.

Others use journal.py (records in segments, synced behind the writer), fences.py (the highest token of each
group), heights.py (how high a token is believed), position_log.py, audit_log.py and audit_verify.py (the log
and its check), audit_key.py, audit_signer.py and audit_assurance.py (its signed heads, and what they prove).
segments.py, recovery.py, damage.py and sync_thread.py are the journal's, sync_tail.py the audit log's and the
position log's, audit_signatures.py the signed heads'.
"""

__all__ = [
    "audit_assurance",
    "audit_key",
    "audit_log",
    "audit_signer",
    "audit_verify",
    "fences",
    "heights",
    "journal",
    "position_log",
]
