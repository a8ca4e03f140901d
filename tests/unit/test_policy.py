"""A scheduling policy is taken by who asks for it, or the reason is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hftd.native import policy

TAKE = """
import os, sys, zmq
from hftd.native import policy
zmq.Context.instance().socket(zmq.PUB)  # its threads come along
said = policy.take(sys.argv[1]) or "taken"
now = {(os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority) for thread in map(int, os.listdir("/proc/self/task"))}
print(said, *now.pop(), len(now))
os._exit(0)
"""


def taken(wish: str) -> list[str]:
    """What was said, policy and priority, and how many threads differ; in a process of its own, so that no test runs under it."""
    return subprocess.run([sys.executable, "-u", "-c", TAKE, wish], capture_output=True, text=True, check=True).stdout.rsplit(maxsplit=3)


def test_batch_needs_nobodys_leave() -> None:
    assert taken("batch") == ["taken", str(os.SCHED_BATCH), "0", "0"]


def test_fifo_is_taken_with_its_priority_or_left_out_with_the_kernels_reason() -> None:
    said, now, priority, others = taken("fifo:7")
    if said == "taken":
        assert (now, priority, others) == (str(os.SCHED_FIFO), "7", "0")
    else:
        assert (said, now) == ("sched fifo:7: Operation not permitted", str(os.SCHED_OTHER))


@pytest.mark.parametrize("wish", ["turbo", "fifo:much", ""])
def test_nonsense_is_left_out(wish: str) -> None:
    assert policy.take(wish) == f"sched {wish}: no such policy or priority"
