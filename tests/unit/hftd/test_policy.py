"""A scheduling policy is taken by who asks for it, with its memory locked under a real-time one, or the
reason is said.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hftd.sched import policy

TAKE = """
import os, sys, zmq
from hftd.sched import policy
zmq.Context.instance().socket(zmq.PUB)  # its threads come along
said = policy.take(sys.argv[1]) or "taken"
threads = [int(name) for name in os.listdir("/proc/self/task")]
now = {(os.sched_getscheduler(each), os.sched_getparam(each).sched_priority) for each in threads}
[locked] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck")]
print(said, *now.pop(), len(now), locked)
os._exit(0)
"""


def taken(wish: str) -> list[str]:
    """What was said, policy and priority, how many threads differ, and kB locked; in a process of its own, so
    that no test runs under it.
    """
    return subprocess.run(
        [sys.executable, "-u", "-c", TAKE, wish], capture_output=True, text=True, check=True
    ).stdout.rsplit(maxsplit=4)


def test_batch_needs_nobodys_leave() -> None:
    assert taken("batch") == ["taken", str(os.SCHED_BATCH), "0", "0", "0"]


def test_fifo_is_taken_with_its_priority_or_left_out_with_the_kernels_reason() -> None:
    said, now, priority, others, locked_kb = taken("fifo:7")
    if said.startswith("sched"):
        assert (said, now, locked_kb) == ("sched fifo:7: Operation not permitted", str(os.SCHED_OTHER), "0")
    else:
        assert (now, priority, others) == (str(os.SCHED_FIFO), "7", "0")
        assert int(locked_kb) > 0 if said == "taken" else said.startswith("locked memory: ")


@pytest.mark.parametrize("wish", ["turbo", "fifo:much", ""])
def test_nonsense_is_left_out(wish: str) -> None:
    assert policy.take(wish) == f"sched {wish}: no such policy or priority"
