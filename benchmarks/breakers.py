"""What a closed circuit breaker adds to a call that does nothing, beside pybreaker, purgatory and
circuitbreaker (development dependencies, for this alone), in turn, same form beside same form.

Goals: counting failures in a row, at most a seventh of pybreaker's overhead and less than each of the three;
with a time window and slow calls at most a third of pybreaker's. Then eight threads through one guard: no
call is counted twice or lost.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import circuitbreaker
import purgatory
import pybreaker

from controlplane.resilience import breaker, guard, windows

ROUNDS = 40
CALLS = 5_000
THREADS = 8
THREAD_CALLS = 50_000


def nothing() -> None:
    pass


async def nothing_async() -> None:
    pass


def a_guard(window: windows.Kind | None = None, slow_s: float | None = None) -> guard.Guard:
    settings = breaker.Settings(window=window or windows.Consecutive(), slow_s=slow_s)
    return guard.Guard(breaker.Breaker("benchmark", settings))


def timed() -> guard.Guard:
    return a_guard(windows.Time(slow_rate=0.5), slow_s=1.0)


def timed_with_a_failure() -> guard.Guard:
    one = a_guard(windows.Time(seconds=600.0, slow_rate=0.5), slow_s=1.0)
    one.record(one.permit(), breaker.Outcome.FAIL)
    return one


def decorators() -> dict[str, Callable[[], object]]:
    purgatory_factory = purgatory.SyncCircuitBreakerFactory()
    return {
        "bare": nothing,
        "in a row": a_guard()(nothing),
        "count window": a_guard(windows.Count())(nothing),
        "time window, slow": timed()(nothing),
        "the same, one failed": timed_with_a_failure()(nothing),
        "pybreaker": pybreaker.CircuitBreaker(fail_max=5)(nothing),
        "purgatory": purgatory_factory("decorator")(nothing),
        "circuitbreaker": circuitbreaker.CircuitBreaker(name="decorator")(nothing),
    }


def blocks() -> dict[str, Callable[[], object]]:
    ours, slow = a_guard(), timed()
    theirs = pybreaker.CircuitBreaker(fail_max=5)
    others = purgatory.SyncCircuitBreakerFactory().get_breaker("block")
    third = circuitbreaker.CircuitBreaker(name="block")

    def in_a_row() -> None:
        with ours.call():
            nothing()

    def time_window() -> None:
        with slow.call():
            nothing()

    def of_pybreaker() -> None:
        with theirs.calling():
            nothing()

    def of_purgatory() -> None:
        with others:
            nothing()

    def of_circuitbreaker() -> None:
        with third:
            nothing()

    return {
        "bare": nothing,
        "in a row": in_a_row,
        "time window, slow": time_window,
        "pybreaker": of_pybreaker,
        "purgatory": of_purgatory,
        "circuitbreaker": of_circuitbreaker,
    }


def overheads_ns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median of all rounds, without the bare call. In turn, so that a busy machine is busy for all."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    many = range(CALLS)
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began_ns = time.perf_counter_ns()
            for _ in many:
                call()
            took[name].append((time.perf_counter_ns() - began_ns) / CALLS)
    bare = statistics.median(took.pop("bare"))
    return {name: statistics.median(each) - bare for name, each in took.items()}


async def async_overheads_ns() -> dict[str, float]:
    """Of coroutine functions; pybreaker has none without tornado."""
    factory = purgatory.AsyncCircuitBreakerFactory()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "bare": nothing_async,
        "in a row": a_guard()(nothing_async),
        "time window, slow": timed()(nothing_async),
        "purgatory": factory("async")(nothing_async),
        "circuitbreaker": circuitbreaker.CircuitBreaker(name="async")(nothing_async),
    }
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began_ns = time.perf_counter_ns()
            for _ in range(CALLS):
                await call()
            took[name].append((time.perf_counter_ns() - began_ns) / CALLS)
    bare = statistics.median(took.pop("bare"))
    return {name: statistics.median(each) - bare for name, each in took.items()}


def shown(form: str, overheads: dict[str, float]) -> None:
    print(form)
    for name, each in overheads.items():
        beside = [
            f"{each / overheads[other]:.2f} of {other}'s"
            for other in ("pybreaker", "purgatory", "circuitbreaker")
            if other in overheads and other != name
        ]
        print(f"  {name:22} {each:6.0f} ns   {', '.join(beside)}")


def contention() -> None:
    """Eight threads, half of whose calls go by `with`; a failure now and then takes the slow way."""
    one = a_guard(windows.Consecutive(failures=10**9))
    call = one(nothing)

    @one
    def fails() -> None:
        raise ValueError("wanted")

    def work() -> None:
        for n in range(THREAD_CALLS):
            if n % 1000 == 999:
                try:
                    fails()
                except ValueError:
                    continue
            elif n % 2:
                call()
            else:
                with one.call():
                    pass

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    began_s = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    took_s = time.perf_counter() - began_s
    _, tally, _ = one.look()
    made = THREADS * THREAD_CALLS
    failed = made // 1000
    assert (tally.ok, tally.failed) == (made - failed, failed), tally
    print(
        f"{THREADS} threads, {made} calls in {took_s:.2f} s: {tally.ok} ok, {tally.failed} failed are counted"
    )


def main() -> None:
    shown("decorator", overheads_ns(decorators()))
    shown("with", overheads_ns(blocks()))
    shown("coroutine function", asyncio.run(async_overheads_ns()))
    contention()


if __name__ == "__main__":
    main()
