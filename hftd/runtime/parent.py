"""A daemon dies with its shim: two of one instance would run when the agent started another beside it.

The shim's child asks the kernel for that (PR_SET_PDEATHSIG) before it becomes the daemon, and the kernel
forgets it at the exec of a program with file capabilities or another user's rights. So the daemon asks
again; then it looks whether its shim had died before.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping

from controlplane.errors import Refused

PR_SET_PDEATHSIG = 1


def die_with_shim(environment: Mapping[str, str]) -> None:
    """Called as early as can be; without HFT_SHIM (started by hand, or by an older shim) it does nothing.

    Raises Refused: the shim is dead, or the kernel does not do it.
    """
    shim = environment.get("HFT_SHIM", "")
    if not shim:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        why = os.strerror(ctypes.get_errno())
        raise Refused(f"the kernel does not tie this process to its shim ({why}): not started")
    if str(os.getppid()) != shim:
        raise Refused(f"its shim (pid {shim}) is dead: not started, as another instance may be soon")
