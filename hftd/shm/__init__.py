"""Memory that a keeper and its daemon share, one page a direction, and what stands beside it.

Others use pages.py (lease page and heartbeat page), bell.py (look at the lease page now) and fence_file.py
(whom a leading daemon fences). The agents write one side, runtime/leadership.py the other.
"""

__all__ = [
    "bell",
    "fence_file",
    "pages",
]
