"""What another process is given: every thread of it, also those that it starts afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.host import sched

THREADS = """
import sys, threading
wait = threading.Event()
for _ in range(20):
    threading.Thread(target=wait.wait, daemon=True).start()
print("up", flush=True)
sys.stdin.readline()
threading.Thread(target=wait.wait, daemon=True).start()
print("one more", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", THREADS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process
        process.kill()


def scheduled(pid: int) -> list[tuple[int, int]]:
    return [
        (os.sched_getscheduler(int(thread.name)), os.sched_getparam(int(thread.name)).sched_priority)
        for thread in Path(f"/proc/{pid}/task").iterdir()
    ]


def test_every_thread_is_reached_and_those_that_they_start_later(child: subprocess.Popen[str]) -> None:
    permitted = sched.may_be_real_time()
    wanted = (os.SCHED_FIFO, 2) if permitted else (os.SCHED_OTHER, 0)
    assert sched.make_real_time(child.pid, 2) == permitted
    assert scheduled(child.pid) == [wanted] * 21
    assert child.stdin is not None and child.stdout is not None
    print(file=child.stdin, flush=True)
    assert child.stdout.readline() == "one more\n"
    assert scheduled(child.pid) == [wanted] * 22


def test_a_process_that_is_gone_and_a_refusal_are_said_not_raised(
    child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "sched_setscheduler", refuse)
        assert not sched.make_real_time(child.pid, 2)
    child.kill()
    child.wait()
    assert not sched.make_real_time(child.pid, 2)
