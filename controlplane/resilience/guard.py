"""A circuit breaker's face for programs with threads or tasks: `with`, `async with`, a decorator, and
`permit`/`record`/`release`. It adds a clock, a lock and the judging of exceptions to breaker.py, which
decides everything.

    guard = Guard(Breaker("riskd"))
    with guard.call(): ...            async with guard.call(): ...            @guard  def ask(): ...

A call that is not let through raises `NotPermitted`, which says when to come again. Any number of threads may
use one guard: each call is counted once.

Most calls find the breaker closed and end well, and a success opens no breaker. Those pay for no lock: they
are counted in a `Gate`, the present state as a small object, and given to the breaker before anything else
happens to it. `if gate.plain: gate.calls += 1` is one step to other threads because CPython hands over only
between calls and at the end of loops; where an interpreter runs without its global lock, no gate is plain.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from controlplane.errors import NotPermitted
from controlplane.resilience import windows
from controlplane.resilience.breaker import PASSES, Breaker, State, Tally
from controlplane.resilience.outcome import EVERY_EXCEPTION, Outcome, Rules

P = ParamSpec("P")
T = TypeVar("T")

_GLOBAL_LOCK: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


class Gate:
    """What the breaker's state means for a call that begins now. After a change of state there is another."""

    __slots__ = ("_guard", "calls", "direct", "generation", "open", "plain", "until_ns")

    def __init__(self, guard: Guard, generation: int) -> None:
        self._guard = guard
        self.generation = generation
        self.open = False
        """Calls pass without being counted as they begin."""
        self.direct = False
        """And nothing of a call is measured, so that the gate itself can stand for it."""
        self.plain = False
        """A success that ends before `until_ns` is counted here."""
        self.until_ns = 0
        self.calls = 0
        """Plain successes that the breaker has not been told of."""

    # Nothing is left to ask on entry (`Guard.call` has). Python calls what stands here without `self`, and
    # an ExitStack with it: of the callables that cost no Python frame, bool takes both.
    __enter__ = bool

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.plain and kind is None:
            self.calls += 1
            return
        self._guard._ended(self.generation, exc, None)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, trace)


class Call:
    """One call that is timed, or that needs a permit of its own."""

    __slots__ = ("_began_ns", "_gate", "_generation", "_guard")

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        guard = self._guard
        self._gate = gate = guard._gate
        self._generation = gate.generation if gate.open else guard.permit()
        self._began_ns = guard.clock_ns()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        guard, gate = self._guard, self._gate
        now_ns = guard.clock_ns()
        took_ns = now_ns - self._began_ns
        if gate.plain and kind is None and took_ns <= guard._slow_ns and now_ns < gate.until_ns:
            gate.calls += 1
            return
        guard.record(self._generation, guard._outcome(exc), took_ns)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, exc, trace)


class Guard:
    __slots__ = ("_breaker", "_gate", "_lock", "_slow_ns", "_timed", "clock_ns", "rules")

    def __init__(
        self,
        breaker: Breaker,
        rules: Rules = EVERY_EXCEPTION,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """From now on the breaker is the guard's own: ask it only through here."""
        settings = breaker.settings
        self.rules, self.clock_ns = rules, clock_ns
        self._breaker = breaker
        self._lock = threading.RLock()
        """Of one thread twice: what hears of a transition may ask the guard how it stands."""
        self._slow_ns = windows.FOREVER_NS if settings.slow_s is None else int(settings.slow_s * 1e9)
        self._timed = settings.slow_s is not None or isinstance(settings.window, windows.Time)
        self._gate = Gate(self, breaker.generation)
        with self._lock:
            self._renew(clock_ns())

    def __repr__(self) -> str:
        return f"<Guard of {self._breaker!r}>"

    # --- the three forms ------------------------------------------------------------------------------------

    def call(self) -> Gate | Call:
        """For `with` and `async with`, at once: it stands for the state of this moment."""
        gate = self._gate
        return gate if gate.direct else Call(self)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """The function, guarded; of a coroutine function a coroutine function. As a decorator: `@guard`."""
        awaited = inspect.iscoroutinefunction(function)
        if self._timed or self.rules.result is not None:
            return self._timed_coroutine(function) if awaited else self._timed_function(function)
        return self._coroutine(function) if awaited else self._function(function)

    def _function(self, function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            gate = self._gate
            generation = gate.generation if gate.open else self.permit()
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:
                self._ended(generation, exc, None)
                raise
            if gate.plain:
                gate.calls += 1
            else:
                self._ended(generation, None, None)
            return result

        return guarded

    def _coroutine(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            gate = self._gate
            generation = gate.generation if gate.open else self.permit()
            try:
                result = await function(*args, **kwargs)
            except BaseException as exc:
                self._ended(generation, exc, None)
                raise
            if gate.plain:
                gate.calls += 1
            else:
                self._ended(generation, None, None)
            return result

        return guarded

    def _timed_function(self, function: Callable[P, T]) -> Callable[P, T]:
        clock_ns, slow_ns, judge = self.clock_ns, self._slow_ns, self.rules.result

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            gate = self._gate
            generation = gate.generation if gate.open else self.permit()
            began_ns = clock_ns()
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:
                self._ended(generation, exc, began_ns)
                raise
            now_ns = clock_ns()
            if judge is not None:
                self.record(generation, judge(result), now_ns - began_ns)
            elif gate.plain and now_ns - began_ns <= slow_ns and now_ns < gate.until_ns:
                gate.calls += 1
            else:
                self.record(generation, Outcome.OK, now_ns - began_ns)
            return result

        return guarded

    def _timed_coroutine(self, function: Callable[P, Any]) -> Callable[P, Any]:
        clock_ns, slow_ns, judge = self.clock_ns, self._slow_ns, self.rules.result

        @functools.wraps(function)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            gate = self._gate
            generation = gate.generation if gate.open else self.permit()
            began_ns = clock_ns()
            try:
                result = await function(*args, **kwargs)
            except BaseException as exc:
                self._ended(generation, exc, began_ns)
                raise
            now_ns = clock_ns()
            if judge is not None:
                self.record(generation, judge(result), now_ns - began_ns)
            elif gate.plain and now_ns - began_ns <= slow_ns and now_ns < gate.until_ns:
                gate.calls += 1
            else:
                self.record(generation, Outcome.OK, now_ns - began_ns)
            return result

        return guarded

    # --- in parts -------------------------------------------------------------------------------------------

    def permit(self) -> int:
        """A permit, for `record` or `release`, once. Raises NotPermitted; nothing need be given back then."""
        gate = self._gate
        if gate.open:
            return gate.generation
        with self._lock:
            now_ns = self.clock_ns()
            self._tell()
            permit = self._breaker.permit(now_ns)
            self._renew(now_ns)
            if permit is None:
                raise self._refusal(now_ns)
            return permit

    def record(self, permit: int, outcome: Outcome, took_ns: int = 0) -> None:
        with self._lock:
            now_ns = self.clock_ns()
            self._tell()
            self._breaker.record(permit, outcome, now_ns, took_ns)
            self._renew(now_ns)

    def release(self, permit: int) -> None:
        self.record(permit, Outcome.IGNORE)

    # --- operators and status -------------------------------------------------------------------------------

    def force(self, state: State, reason: str, for_s: float | None = None) -> None:
        """See Breaker.force; `for_s` counts from now."""
        with self._lock:
            now_ns = self.clock_ns()
            self._tell()
            self._breaker.force(state, now_ns, reason, None if for_s is None else now_ns + int(for_s * 1e9))
            self._renew(now_ns)

    def auto(self, reason: str) -> None:
        with self._lock:
            now_ns = self.clock_ns()
            self._tell()
            self._breaker.auto(now_ns, reason)
            self._renew(now_ns)

    def look(self) -> tuple[State, Tally, tuple[int, int, int]]:
        """The state, all calls so far, and (calls, failed, slow) of the window, as of now."""
        with self._lock:
            now_ns = self.clock_ns()
            self._tell()
            self._breaker.look(now_ns)
            self._renew(now_ns)
            tally = self._breaker.tally
            copy = Tally(tally.ok, tally.failed, tally.slow, tally.ignored, tally.refused, tally.late)
            return self._breaker.state, copy, self._breaker.window.rates(now_ns)

    # --- under the lock -------------------------------------------------------------------------------------

    def _ended(self, generation: int, exc: BaseException | None, began_ns: int | None) -> None:
        took_ns = 0 if began_ns is None else self.clock_ns() - began_ns
        self.record(generation, self._outcome(exc), took_ns)

    def _outcome(self, exc: BaseException | None) -> Outcome:
        return Outcome.OK if exc is None else self.rules.of_exception(exc)

    def _tell(self) -> None:
        """Close the gate for plain calls and give the breaker what it has counted: before anything else."""
        gate = self._gate
        gate.plain = False
        calls, gate.calls = gate.calls, 0
        if calls:
            self._breaker.record_plain(calls, gate.until_ns - 1)

    def _renew(self, now_ns: int) -> None:
        """Let the gate say how the breaker stands now."""
        breaker = self._breaker
        if self._gate.generation != breaker.generation:
            self._gate.open = False
            self._gate = Gate(self, breaker.generation)
        gate = self._gate
        # With an end of its own it must look at the clock as each call begins.
        gate.plain = breaker.state in PASSES and _GLOBAL_LOCK
        gate.open = gate.plain and breaker.until_ns is None
        gate.direct = gate.open and not self._timed
        gate.until_ns = breaker.window.until_ns(now_ns)

    def _refusal(self, now_ns: int) -> NotPermitted:
        breaker = self._breaker
        after_s = None if breaker.until_ns is None else max(0.0, (breaker.until_ns - now_ns) / 1e9)
        again = "" if after_s is None else f"; it is tried again in {after_s:.1f} s"
        since_s = (now_ns - breaker.since_ns) / 1e9
        return NotPermitted(
            f"{breaker.name} is not asked: its breaker is {breaker.state.value.replace('_', ' ')} since "
            f"{since_s:.1f} s ({breaker.reason}){again}",
            retry_after_s=after_s,
        )
