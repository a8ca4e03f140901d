"""The one way to run a long-lived process until it is told to stop, or fails.

    sys.exit(run.until_signalled("controld", lambda stop: serve(stop, given)))

`serve` is one coroutine that opens what it needs, runs its tasks in a task group of its own (each has a
name), and closes everything in its `finally`. What it may rely on:

- What it and its children write is this user's alone (umask 077), they have as much as the hard limits
  allow, and no signal is blocked or ignored because it was to whoever started them.
- It is never pid 1, whose children are also all orphans of a container (first_process.py).
- SIGTERM and SIGINT are taken from before `serve` begins, so one that comes during start-up is not lost.
  Either sets `stop`; then `serve` has `orderly_s` to return, and is cancelled after it (0: at once). It is
  cancelled once in its life, so its `finally` may await. A second signal ends the orderly part early.
- A process that has not ended `clean_up_s` after that exits with 1, whatever hangs: a clean-up, a thread, the
  loop itself. Its children are its starter's concern, as after a kill -9.
- A task that fails ends `serve` by its task group. Each error that came of it is one line in the log
  (`process.failed`): of ours its text, of any other its type, text and traceback. Exit code: that of our
  error, else 1.

Plain asyncio below, so that a keeper need not import anyio before it can take over; anyio's task groups and
scopes work inside as everywhere. The log (log.py) is started and ended here.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator

from controlplane.errors import HftctlError
from controlplane.host import first_process, inherited, log, log_libraries, log_line

OWNERS_ALONE = 0o077
"""umask: files, folders and sockets of ours, and of what we start, are this user's alone."""
CLEAN_UP_S = 10.0
"""Longer than closing sockets and leases takes with a store that does not answer (a few seconds)."""


class Stop:
    """Set by the first SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.signal = ""
        """The name of that signal."""

    def __repr__(self) -> str:
        return f"<Stop {self.signal or 'not asked'}>"

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()

    def ask(self, name: str) -> None:
        self.signal = name
        self._event.set()


def until_signalled(
    name: str,
    serve: Callable[[Stop], Awaitable[int]],
    *,
    orderly_s: float = 0.0,
    clean_up_s: float = CLEAN_UP_S,
) -> int:
    """Run `serve` to its end and return the exit code; `name` is the process's in its log."""
    first_process.leave_to_another()
    os.umask(OWNERS_ALONE)
    inherited.limits()
    inherited.signals()
    try:
        level = log_line.level_from_environment()
    except HftctlError as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return exc.exit_code
    life = _Life(serve, orderly_s, clean_up_s)
    with log.started(name, level):
        try:
            return asyncio.run(life.live())
        except (Exception, BaseExceptionGroup) as exc:
            return _say_failure(name, exc)
        finally:
            life.ended()


class _Life:
    def __init__(self, serve: Callable[[Stop], Awaitable[int]], orderly_s: float, clean_up_s: float) -> None:
        self._serve, self._orderly_s, self._clean_up_s = serve, orderly_s, clean_up_s
        self._stop = Stop()
        self._serving: asyncio.Task[int] | None = None
        self._cancelled = False
        self._timers: list[threading.Timer] = []

    async def live(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self._serving = asyncio.create_task(self._begin(), name="serve")
        try:
            return await self._serving
        except asyncio.CancelledError:
            if not self._cancelled:
                raise RuntimeError("it was cancelled, and no signal had come") from None
            return 0
        finally:
            # asyncio.run still waits for threads (for minutes, if one hangs).
            self._give_up_after(self._clean_up_s)

    async def _begin(self) -> int:
        return await self._serve(self._stop)

    def _signalled(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stop.asked:
            log.warning("process.signalled_again", signal=name)
            self._cancel()
            return
        log.info("process.stopping", signal=name)
        self._stop.ask(name)
        self._give_up_after(self._orderly_s + self._clean_up_s)
        if self._orderly_s > 0:
            asyncio.get_running_loop().call_later(self._orderly_s, self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        """Once: a second one would cut short what the first began to close."""
        if self._serving is not None and not self._cancelled and not self._serving.done():
            self._cancelled = True
            self._serving.cancel()

    def _give_up_after(self, wait_s: float) -> None:
        # A thread: it works as well when the loop is what hangs.
        timer = threading.Timer(wait_s, _give_up, (wait_s, asyncio.get_running_loop()))
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def ended(self) -> None:
        for timer in self._timers:
            timer.cancel()


def _give_up(waited_s: float, loop: asyncio.AbstractEventLoop) -> None:
    try:
        tasks = sorted(task.get_name() for task in asyncio.all_tasks(loop))
    except RuntimeError:
        tasks = []  # the loop's set of tasks changed under our eyes
    threads = sorted(thread.name for thread in threading.enumerate())
    log.error("process.stuck", waited_s=waited_s, tasks=tasks, threads=threads)
    log.flush()
    os._exit(1)


def reasons(exc: BaseException) -> list[str]:
    """Each error in it as one text: of ours its own, of any other with its type."""
    return [_reason(error) for error in _leaves(exc)]


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, HftctlError) else f"{type(error).__name__}: {error}"


def _say_failure(name: str, exc: BaseException) -> int:
    errors = list(_leaves(exc))
    for error in errors:
        if isinstance(error, HftctlError):
            log.error("process.failed", reason=_reason(error))
        else:
            log.error("process.failed", reason=_reason(error), traceback=log_libraries.traceback_of(error))
        if not _one_file(log.STDOUT, log.STDERR):  # else it is there already
            print(f"{name}: {_reason(error)}", file=sys.stderr, flush=True)
    ours = [error for error in errors if isinstance(error, HftctlError)]
    return ours[0].exit_code if ours and len(ours) == len(errors) else 1


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _leaves(each)
    elif not isinstance(exc, asyncio.CancelledError):
        yield exc


def _one_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
