"""Tasks and threads wait for their turn, in order, for so long, and never more at once than there is room."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from controlplane.errors import NotPermitted
from controlplane.resilience.bulkhead import Bulkhead
from controlplane.resilience.turnstile import ThreadTurnstile, Turnstile

SOON_S = 20.0


def test_tasks_take_turns_in_order_and_one_too_many_is_refused() -> None:
    bulkhead = Bulkhead("venue", concurrent_max=1, queue_max=2)
    turnstile, served, go = Turnstile(bulkhead, SOON_S), list[int](), asyncio.Event()

    async def call(number: int) -> None:
        async with turnstile.enter():
            await go.wait()
            served.append(number)

    async def all_of_them() -> list[BaseException | None]:
        tasks = [asyncio.create_task(call(number)) for number in range(4)]
        await asyncio.sleep(0)
        assert (bulkhead.inside, bulkhead.waiting) == (1, 2)
        go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    *fine, refused = asyncio.run(all_of_them())
    assert (fine, served) == ([None, None, None], [0, 1, 2])
    assert isinstance(refused, NotPermitted)
    assert "venue is not asked: 1 calls to it are under way and 2 wait (at most 1 and 2)" in str(refused)
    assert (bulkhead.inside, bulkhead.waiting) == (0, 0)


def test_a_task_waits_no_longer_than_it_is_told_and_leaves_the_queue() -> None:
    bulkhead = Bulkhead("venue", concurrent_max=1, queue_max=1)
    turnstile = Turnstile(bulkhead, wait_s=0.01)

    async def two() -> None:
        async with turnstile.enter():
            with pytest.raises(NotPermitted, match=r"after 0\.01 s in the queue"):
                async with turnstile.enter():
                    pass
            assert bulkhead.waiting == 0
        assert bulkhead.inside == 0

    asyncio.run(two())


@pytest.mark.parametrize("its_turn_has_come", [False, True])
def test_a_task_that_is_cancelled_gives_its_place_on(its_turn_has_come: bool) -> None:
    bulkhead = Bulkhead("venue", concurrent_max=1, queue_max=2)
    turnstile, leave, served = Turnstile(bulkhead, SOON_S), asyncio.Event(), list[str]()

    async def first() -> None:
        async with turnstile.enter():
            await leave.wait()

    async def later(name: str) -> None:
        async with turnstile.enter():
            served.append(name)

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(each) for each in (first(), later("second"), later("third"))]
        await asyncio.sleep(0)
        if its_turn_has_come:
            leave.set()
            while bulkhead.waiting == 2:  # noqa: ASYNC110  a bulkhead sets no event
                await asyncio.sleep(0)
        tasks[1].cancel()
        leave.set()
        async with asyncio.timeout(SOON_S):
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(all_of_them())
    assert served == ["third"]
    assert (bulkhead.inside, bulkhead.waiting) == (0, 0)


def test_eight_threads_are_never_more_than_two_at_once() -> None:
    bulkhead = Bulkhead("venue", concurrent_max=2, queue_max=8)
    turnstile, lock = ThreadTurnstile(bulkhead, SOON_S), threading.Lock()
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        for _ in range(200):
            with turnstile.enter():
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                    done += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(SOON_S)
    assert (done, bulkhead.inside, bulkhead.waiting) == (1600, 0, 0)
    assert most <= 2


def test_a_thread_waits_no_longer_than_it_is_told() -> None:
    bulkhead = Bulkhead("venue", concurrent_max=1, queue_max=1)
    turnstile = ThreadTurnstile(bulkhead, wait_s=0.01)
    with turnstile.enter():
        with pytest.raises(NotPermitted, match="in the queue"), turnstile.enter():
            pass
        assert bulkhead.waiting == 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(turnstile.enter())
        assert bulkhead.inside == 1
