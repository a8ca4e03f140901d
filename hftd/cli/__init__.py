"""`hftd NAME` (main.py), and the verbs that the data plane brings to hftctl (verbs.py)."""

__all__ = ["main"]
