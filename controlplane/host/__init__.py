"""What the operating system is asked for in one way only, by every process of ours.

cpu (which machines will do) · run (until signalled) · log · log_reading · files (replaced whole) · locks (and
signs of life) · identity · run_folder · sched · secret · system_clock · standing (troubles) · title (in ps
and top) · first_process (as pid 1) · inherited (what a starter leaves a process with) · in_thread (a context
held open for a program without an event loop).
log_line, log_file and log_libraries are parts of log; log_line is also the daemons' format
(hftd/runtime/log.py).
"""

__all__ = [
    "cpu",
    "files",
    "first_process",
    "identity",
    "in_thread",
    "inherited",
    "locks",
    "log",
    "log_line",
    "log_reading",
    "run",
    "run_folder",
    "sched",
    "secret",
    "standing",
    "system_clock",
    "title",
]
