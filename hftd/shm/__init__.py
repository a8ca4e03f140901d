"""Memory that a keeper and its daemon share, one page a direction, and what stands beside it.

Others use pages.py (lease page and heartbeat page), bell.py (look at the lease page now), fence_file.py
(whom a leading daemon fences) and kept_fences.py (a receiver's fences on its disk). The agents write one
side, runtime/leadership.py the other.
"""

__all__ = [
    "bell",
    "fence_file",
    "kept_fences",
    "pages",
]
