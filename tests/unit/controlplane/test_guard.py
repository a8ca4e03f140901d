"""A guard gives a breaker its three forms, judges exceptions and results, and counts each call of any thread
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from controlplane.errors import NotPermitted
from controlplane.resilience import windows
from controlplane.resilience.breaker import Breaker, Settings, State, Transition
from controlplane.resilience.guard import Gate, Guard
from controlplane.resilience.outcome import Outcome, Rules

S = 1_000_000_000


class Clock:
    now_ns = 1000 * S

    def __call__(self) -> int:
        return self.now_ns


def a_guard(clock: Clock | None = None, rules: Rules | None = None, **settings: object) -> Guard:
    return Guard(
        Breaker("riskd", Settings(**settings)),  # type: ignore[arg-type]
        rules or Rules(),
        clock or Clock(),
    )


def tally(guard: Guard) -> tuple[int, int, int, int, int, int]:
    each = guard.look()[1]
    return each.ok, each.failed, each.slow, each.ignored, each.refused, each.late


def by_decorator(guard: Guard, does: Callable[[], object]) -> None:
    guard(does)()


def by_with(guard: Guard, does: Callable[[], object]) -> None:
    with guard.call():
        does()


def by_exit_stack(guard: Guard, does: Callable[[], object]) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(guard.call())
        does()


def by_coroutine_function(guard: Guard, does: Callable[[], object]) -> None:
    @guard
    async def ask() -> None:
        does()

    asyncio.run(ask())


def by_async_with(guard: Guard, does: Callable[[], object]) -> None:
    async def ask() -> None:
        async with guard.call():
            does()

    asyncio.run(ask())


FORMS = [by_decorator, by_with, by_exit_stack, by_coroutine_function, by_async_with]
WINDOWS = [windows.Consecutive(), windows.Count(min_calls=8), windows.Time(min_calls=5)]


def fails() -> None:
    raise OSError("down")


def fine() -> None:
    pass


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", WINDOWS)
def test_each_form_counts_opens_refuses_and_closes_again(
    form: Callable[[Guard, Callable[[], object]], None], window: windows.Kind
) -> None:
    clock = Clock()
    guard = a_guard(clock, window=window)
    for _ in range(3):
        form(guard, fine)
    clock.now_ns += 100 * S
    for _ in range(5):
        with pytest.raises(OSError, match="down"):
            form(guard, fails)
    with pytest.raises(NotPermitted, match="riskd is not asked") as refused:
        form(guard, fails)
    assert refused.value.retry_after_s == 30.0
    assert tally(guard) == (3, 5, 0, 0, 1, 0)
    clock.now_ns += 30 * S
    form(guard, fine)
    form(guard, fine)
    assert guard.look()[0] is State.CLOSED
    assert tally(guard) == (5, 5, 0, 0, 1, 0)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_sees_what_is_slow(form: Callable[[Guard, Callable[[], object]], None]) -> None:
    clock = Clock()
    guard = a_guard(clock, window=windows.Time(min_calls=2, slow_rate=1.0), slow_s=0.5)

    def takes(ns: int) -> Callable[[], None]:
        def does() -> None:
            clock.now_ns += ns

        return does

    form(guard, takes(S // 2))
    assert tally(guard)[:3] == (1, 0, 0)
    clock.now_ns += 20 * S
    form(guard, takes(S // 2 + 1))
    assert guard.look()[0] is State.CLOSED
    form(guard, takes(S))
    assert guard.look()[0] is State.OPEN
    assert tally(guard)[:3] == (1, 0, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", WINDOWS)
def test_a_late_result_of_each_form_is_dropped(
    form: Callable[[Guard, Callable[[], object]], None], window: windows.Kind
) -> None:
    clock = Clock()
    guard = a_guard(clock, window=window)

    def opens_meanwhile() -> None:
        for _ in range(8):
            with contextlib.suppress(NotPermitted):
                guard.record(guard.permit(), Outcome.FAIL)
        clock.now_ns += 30 * S
        guard.look()

    form(guard, opens_meanwhile)
    assert guard.look()[0] is State.HALF_OPEN
    assert (tally(guard)[0], tally(guard)[5]) == (0, 1)


def test_what_the_rules_do_not_name_is_an_answer() -> None:
    guard = a_guard(rules=Rules(failures=(OSError,), ignored=(TimeoutError,)))
    for exc in (OSError(), TimeoutError(), KeyError(), KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(exc)), guard.call():
            raise exc
    assert tally(guard) == (1, 1, 0, 3, 0, 0)


def test_results_are_judged() -> None:
    def judge(status: object) -> Outcome:
        return {503: Outcome.FAIL, 429: Outcome.SLOW, 404: Outcome.IGNORE}.get(status, Outcome.OK)  # type: ignore[call-overload, no-any-return]

    guard = a_guard(rules=Rules(result=judge))

    @guard
    def ask(status: int) -> int:
        return status

    @guard
    async def ask_async(status: int) -> int:
        return status

    for status in (200, 503, 429, 404):
        assert ask(status) == status
        assert asyncio.run(ask_async(status)) == status
    assert tally(guard) == (2, 2, 2, 2, 0, 0)


def test_exceptions_can_be_judged_one_by_one() -> None:
    def judge(exc: BaseException) -> Outcome:
        return Outcome.OK if "no such key" in str(exc) else Outcome.FAIL

    guard = a_guard(rules=Rules(exception=judge))
    for text in ("no such key", "no leader"):
        with pytest.raises(OSError, match=text), guard.call():
            raise OSError(text)
    assert tally(guard)[:2] == (1, 1)


def test_a_cancelled_task_gives_its_half_open_permit_back() -> None:
    clock = Clock()
    guard = a_guard(clock, half_open_permits=1)
    for _ in range(5):
        guard.record(guard.permit(), Outcome.FAIL)
    clock.now_ns += 30 * S

    @guard
    async def ask() -> None:
        await asyncio.sleep(60)

    async def cancelled() -> None:
        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        with pytest.raises(NotPermitted):
            guard.permit()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    guard.release(guard.permit())
    assert guard.look()[0] is State.HALF_OPEN


def test_a_refusal_says_since_when_why_and_when_to_come_again() -> None:
    clock = Clock()
    guard = a_guard(clock)
    for _ in range(5):
        guard.record(guard.permit(), Outcome.FAIL)
    clock.now_ns += 10 * S
    with pytest.raises(NotPermitted) as refused:
        guard.permit()
    assert str(refused.value) == (
        "riskd is not asked: its breaker is open since 10.0 s (5 failures in a row); "
        "it is tried again in 20.0 s"
    )
    guard.force(State.FORCED_OPEN, "the venue asked for it")
    with pytest.raises(NotPermitted, match=r"forced open since 0.0 s \(the venue asked for it\)$"):
        guard.permit()


def test_what_is_forced_for_a_while_ends_for_every_form() -> None:
    clock = Clock()
    guard = a_guard(clock)
    guard.force(State.METRICS_ONLY, "tuning", for_s=60.0)
    for _ in range(10):
        with contextlib.suppress(OSError):
            by_decorator(guard, fails)
    clock.now_ns += 60 * S
    by_decorator(guard, fine)
    assert guard.look()[0] is State.CLOSED
    guard.force(State.DISABLED, "off")
    guard.auto("on again")
    assert guard.look()[0] is State.CLOSED
    assert tally(guard)[:2] == (1, 10)


def test_what_hears_of_a_transition_may_ask_how_it_stands() -> None:
    heard: list[tuple[Transition, State]] = []
    guard: Guard

    def on_transition(transition: Transition) -> None:
        heard.append((transition, guard.look()[0]))

    guard = Guard(Breaker("riskd", on_transition=on_transition))
    for _ in range(5):
        guard.record(guard.permit(), Outcome.FAIL)
    assert [(each.new, state) for each, state in heard] == [(State.OPEN, State.OPEN)]


@pytest.fixture
def threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("window", [windows.Consecutive(failures=10**9), windows.Time(failure_rate=1.1)])
@pytest.mark.usefixtures("threads_change_often")
def test_eight_threads_lose_no_call_and_count_none_twice(window: windows.Kind) -> None:
    guard = a_guard(window=window)
    ask, fail = guard(fine), guard(fails)
    each, threads = 6_000, 8

    def work() -> None:
        for n in range(each):
            if n % 10 == 9:
                with contextlib.suppress(OSError):
                    fail()
            elif n % 2:
                ask()
            else:
                with guard.call():
                    pass

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert tally(guard) == (threads * each * 9 // 10, threads * each // 10, 0, 0, 0, 0)


@pytest.mark.usefixtures("threads_change_often")
def test_eight_threads_get_no_more_permits_than_there_are() -> None:
    """Through openings and trials: every call ends as one of ok, failed, late or refused."""
    guard = Guard(Breaker("x", Settings(window=windows.Consecutive(3), half_open_permits=2)))
    inside, most, begun, lock = 0, 0, 0, threading.Lock()

    def work(seed: int) -> None:
        nonlocal inside, most, begun
        for n in range(2_000):
            if n % 50 == seed * 5:
                guard.force(State.FORCED_OPEN, "test", for_s=0.0)
            with lock:
                begun += 1
            with contextlib.suppress(OSError, NotPermitted), guard.call():
                if (n + seed) % 7 == 0:
                    raise OSError

    running = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert sum(tally(guard)) == begun


def test_counting_a_plain_call_is_one_step_to_other_threads() -> None:
    """CPython lets another thread run after a call and at a backward jump; between the question and the count
    there is neither.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("no gate is plain in this interpreter")
    names = [(each.opname, each.argval) for each in dis.get_instructions(Gate.__exit__)]
    first = next(n for n, (_, value) in enumerate(names) if value == "plain")
    last = next(n for n, (name, value) in enumerate(names) if (name, value) == ("STORE_ATTR", "calls"))
    between = [name for name, _ in names[first : last + 1]]
    assert not [name for name in between if name.startswith(("CALL", "PRECALL", "RESUME", "JUMP_BACKWARD"))]
