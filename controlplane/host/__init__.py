"""What the operating system is asked for in one way only, by every process of ours.

cpu (which machines will do) · run (until signalled) · log · files (replaced whole) · locks · identity ·
sched · secret · system_clock.
log_line, log_file and log_libraries are parts of log; log_line is also the daemons' format
(hftd/runtime/log.py).
"""

__all__ = [
    "cpu",
    "files",
    "identity",
    "locks",
    "log",
    "log_line",
    "run",
    "sched",
    "secret",
    "system_clock",
]
