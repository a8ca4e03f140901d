"""What a process has from whoever started it, put back to what ours expect: a floor that was brought up from
a shell with SIGTERM blocked would hear no `down`, and one from under `nice` or `taskset` would trade so.

`signals` is for every process of ours and changes nothing that an operator may have meant. `reset` puts back
the rest too, and is for a process that a person's shell started (hft-floord, by `hftctl up`); a unit of
systemd chooses cores and niceness of an agent on purpose. A daemon gets all of it from its shim
(agents/supervisor/shim.py). umask and working directory: run.py, and whoever starts a process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal

KEPT = frozenset({signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP})
"""The interpreter sets the first three as it starts; the last is how `nohup` is meant."""
NEVER = frozenset({signal.SIGKILL, signal.SIGSTOP})
LIMITS = (
    resource.RLIMIT_NOFILE,  # a crowd of idle clients reaches the usual soft limit of 1,024
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
)
"""Not the stack: its limit is the size of each thread's. Not core files: they hold the site's secret."""
FIRST_PROCESS = 1


def signals() -> None:
    """Block none, and ignore none but those KEPT. Of a signal that came while it was blocked, its handler or
    its default follows at once.
    """
    for number in signal.valid_signals() - KEPT - NEVER:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def limits() -> None:
    """As much of each as may be had."""
    for each in LIMITS:
        _, hard = resource.getrlimit(each)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(each, (hard, hard))


def reset() -> None:
    """Signals, limits, niceness and cores. Called before there is another thread.

    What is not permitted (a niceness above 0, to an ordinary user) stays.
    """
    signals()
    limits()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):
        # Those of the first process: without the cores that the kernel was told to keep for others.
        os.sched_setaffinity(0, os.sched_getaffinity(FIRST_PROCESS))
