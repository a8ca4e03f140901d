"""What services a site wants: a services file read and checked as a whole, compared with the store, and
written there.

Other rooms use read.py (`read`), diff.py (`diff`, `Change`), apply.py (`plan`, `apply`, `confirm_stop`: the
one writer of specs), schema.py (`convert`, `Problem`) and settings_check.py (a document against its daemon's
schema). entry.py and check_entry.py are read.py's own.
"""

__all__ = [
    "apply",
    "diff",
    "read",
    "schema",
    "settings_check",
]
