"""What a process of ours does when it is the first of its pid namespace: a container that was given no init.

Every orphan becomes a child of pid 1, and stays in the process table until pid 1 has waited for it. A process
of ours waits for those that it started, by their pids, and must not be robbed of how they ended; so it does
not wait for strangers. Instead it leaves pid 1 to this: it forks, goes on as the child, and the parent waits
for whatever ends, passes signals on, and ends as the child did, with which the kernel ends all the rest.
The shim needs none of it: it waits for all that comes to it, anyway.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import NoReturn

from controlplane.host import title

FIRST = 1


def leave_to_another() -> None:
    """Called first thing, while there is one thread; returns in the process that goes on. Nothing happens in
    any but pid 1.
    """
    if os.getpid() != FIRST:
        return
    # From here on none is lost, and none ends the parent. An ignored SIGCHLD would lose how children ended.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    chld = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid:
        title.show("hft-init", sys.orig_argv[1:])
        _wait(pid)
    signal.signal(signal.SIGCHLD, chld if chld is not None else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(pid: int) -> NoReturn:
    """For every child that there is or comes to be, until this one has ended."""
    while True:
        found = signal.sigwaitinfo(signal.valid_signals())
        if found.si_signo == signal.SIGCHLD:
            _reap(pid)
        elif found.si_code <= 0:  # somebody sent it; what the terminal sends, the child has as well
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, found.si_signo)


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == pid:
                code = os.waitstatus_to_exitcode(found[1])
                os._exit(code if code >= 0 else 128 - code)
