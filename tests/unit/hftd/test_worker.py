"""The thread beside a loop: jobs in their order, answers only in the loop; a fault of a job is the loop's."""

from __future__ import annotations

import select
import threading
import time

import pytest

from hftd.runtime import Worker


def answers(worker: Worker, seconds: float = 20.0) -> None:
    assert select.select([worker], [], [], seconds)[0], "no answer in time"
    worker.drain()


def test_jobs_are_done_in_order_in_another_thread_and_answered_in_this_one() -> None:
    worker, done, told = Worker(), [], []

    def job(n: int) -> int:
        time.sleep(0.01 if n == 0 else 0)
        done.append((n, threading.current_thread() is not threading.main_thread()))
        return n * n

    def answered(found: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(found)

    for n in range(5):
        worker.run(lambda n=n: job(n), answered)
    while len(told) < 5:
        answers(worker)
    assert done == [(n, True) for n in range(5)] and told == [0, 1, 4, 9, 16]


def test_draining_with_nothing_done_waits_for_nothing() -> None:
    worker, go = Worker(), threading.Event()
    worker.run(go.wait, lambda _: None)
    worker.drain()
    go.set()
    answers(worker)


def test_a_job_that_raises_raises_in_the_loop() -> None:
    worker = Worker()
    worker.run(lambda: 1 // 0, lambda _: None)
    with pytest.raises(ZeroDivisionError):
        answers(worker)
    worker.run(lambda: 1, lambda _: None)
    answers(worker)
