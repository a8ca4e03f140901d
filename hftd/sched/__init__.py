"""How the kernel schedules a daemon: what is asked for, and what could not be had, as a sentence.

Others use policy.py (SCHED_FIFO and its kin, locked memory; a daemon takes them itself) and slice.py (a short
time slice on a shared core; the agent asks for it).
"""

__all__ = [
    "policy",
    "slice",
]
