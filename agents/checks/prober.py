"""Carries checks out when they are due, each by its kind, with a deadline of its own and a bound on how many
run at once.

One loop serves all: a look that raises what nobody expected is a critical result of its own check, with the
exception's name, and the loop goes on. A check runs at most once at a time. Those whose last look ran into
its deadline may take only a part of the places, so that however many hang, the others find one at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from agents.checks import clock_offset, file_age, grpc_health, http, leftovers, tcp
from agents.checks.blocking import Calls, Stuck
from agents.checks.script import Scripts
from agents.checks.target import Result, Target, why
from agents.checks.zeromq import Pings
from controlplane import health
from controlplane.errors import HftctlError
from controlplane.model import checks

PLACES = 256
"""Looks at once: each has a socket or a process, and a process may have 1024 descriptors."""
PLACES_OF_SLOW = 128
END_S = 1.0
WITHIN = (checks.ProcessCheck, checks.HeartbeatCheck, checks.TtlCheck, checks.AliasCheck)
"""Kinds that are judged from what the agent knows, without a look at anything."""


@dataclass(eq=False, slots=True)
class Job:
    """One check of one instance, as the prober has it."""

    key: str
    """INSTANCE/CHECK."""
    check: checks.Check
    target: Callable[[], Target]
    """As it is when the check runs."""
    due_mono_s: float = 0.0
    slow: bool = False
    """Its last look ran into its deadline."""
    running: asyncio.Task[None] | None = field(default=None, repr=False)
    dropped: bool = False


Taken = Callable[[Job, Result, float], None]
"""taken(job, result, seconds that it took)."""


class Prober:
    def __init__(
        self, folder: Path, within: Callable[[Job], Result | None], taken: Taken, owner: str = ""
    ) -> None:
        """`folder`: of the check scripts. `within` judges the kinds WITHIN; None: no result this time.
        `owner`: the agent, to know its scripts by when it is another process.
        """
        self._within, self._taken = within, taken
        self._calls, self._pings, self.scripts = Calls(), Pings(), Scripts(folder, owner)
        self._due: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(PLACES)
        self._slow_places = asyncio.Semaphore(PLACES_OF_SLOW)
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Prober: {len(self._tasks)} run, {len(self._due)} wait>"

    @property
    def running(self) -> int:
        """Looks that have begun, those that wait for a place among them."""
        return len(self._tasks)

    def add(self, job: Job) -> None:
        """Run it from now on; the first time soon."""
        self._plan(job, health.first_s(job.key, job.check.interval_s, time.monotonic()))

    def drop(self, job: Job) -> None:
        """Run it no more; what runs of it is ended."""
        job.dropped = True
        if job.running is not None:
            job.running.cancel()

    async def run(self) -> None:
        """Until cancelled; then nothing runs any more. What an agent before this one has left running is
        ended first.
        """
        if owner := self.scripts.owner:
            await self._calls.run("leftovers", lambda: leftovers.end(leftovers.OWNER, owner))
        try:
            while True:
                self._wake.clear()
                now_s = time.monotonic()
                while self._due and self._due[0][0] <= now_s:
                    self._begin(heapq.heappop(self._due)[2])
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait_s is None else max(0.0, wait_s)):
                        await self._wake.wait()
        finally:
            await self._end_all()

    def _plan(self, job: Job, due_mono_s: float) -> None:
        job.due_mono_s = due_mono_s
        heapq.heappush(self._due, (due_mono_s, next(self._numbers), job))
        if self._due[0][2] is job:
            self._wake.set()

    def _begin(self, job: Job) -> None:
        if job.dropped:
            return
        if isinstance(job.check, WITHIN):
            result = self._judged(job)
            self._again(job)
            if result is not None:
                self._taken(job, result, 0.0)
            return
        target = job.target()
        if not target.runs:
            self._again(job)
            return
        job.running = asyncio.create_task(self._look(job, target), name=f"check {job.key}")
        self._tasks.add(job.running)
        job.running.add_done_callback(self._tasks.discard)

    def _judged(self, job: Job) -> Result | None:
        try:
            return self._within(job)
        except Exception as exc:
            return Result("critical", f"unexpected {type(exc).__name__}: {exc}")

    def _again(self, job: Job) -> None:
        if not job.dropped:
            self._plan(job, health.next_s(job.key, job.check.interval_s, time.monotonic(), random.random()))

    async def _look(self, job: Job, target: Target) -> None:
        async with self._slow_places if job.slow else contextlib.nullcontext(), self._places:
            began_s = time.monotonic()
            result, job.slow = await self._result(job, target)
        job.running = None
        self._again(job)
        self._taken(job, result, time.monotonic() - began_s)

    async def _result(self, job: Job, target: Target) -> tuple[Result, bool]:
        """And whether it ran into its deadline."""
        deadline = asyncio.timeout(job.check.timeout_s)
        try:
            async with deadline:
                return await self._probe(job, target), False
        except TimeoutError as exc:
            if not deadline.expired():
                return Result("critical", why(exc)), False
            return Result(
                "critical", f"{_HANGS.get(type(job.check), 'no answer')} within {job.check.timeout_s:g} s"
            ), True
        except Stuck as exc:
            return Result("critical", f"still waiting: {exc}"), True
        except OSError as exc:
            return Result("critical", f"{_place(job.check, target)}: {why(exc)}"), False
        except HftctlError as exc:
            return Result("critical", str(exc)), False
        except Exception as exc:
            return Result("critical", f"unexpected {type(exc).__name__}: {exc}"), False

    def _probe(self, job: Job, target: Target) -> Awaitable[Result]:
        match job.check:
            case checks.HttpCheck() as check:
                return http.probe(check, target, job.key, self._calls)
            case checks.TcpCheck() as check:
                return tcp.probe(check, target, job.key, self._calls)
            case checks.ZmqCheck() as check:
                return self._pings.probe(check, target)
            case checks.ScriptCheck() as check:
                return self.scripts.probe(check, target, job.key)
            case checks.FileAgeCheck() as check:
                return file_age.probe(check, target, job.key, self._calls)
            case checks.ClockCheck() as check:
                return clock_offset.probe(check, target, job.key, self._calls, self.scripts)
            case checks.GrpcCheck() as check:
                return grpc_health.probe(check, target)
        raise AssertionError(f"a check of kind {checks.kind_of(job.check)} is judged within the agent")

    async def _end_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with anyio.move_on_after(END_S, shield=True):  # each lets go of its socket or process at once
            await asyncio.gather(*tasks, return_exceptions=True)
        self._pings.close()


_HANGS: dict[type[checks.Check], str] = {
    checks.ScriptCheck: "killed, as it had not ended",
    checks.TcpCheck: "no connection",
    checks.FileAgeCheck: "the file system did not answer",
}


def _place(check: checks.Check, target: Target) -> str:
    for name in ("url", "address", "source", "program"):
        text = getattr(check, name, "")
        if text:
            return target.filled(text)
    return "not carried out"
