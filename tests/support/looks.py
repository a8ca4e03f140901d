"""One look of each kind of check, as the prober takes it, and what it looks at."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from agents.checks import Target
from agents.checks.prober import Job, Prober
from agents.checks.target import Result
from controlplane.model import checks

TARGET = Target("web", "web-alpha-1", "alpha", endpoints={"requests": "ipc:///nowhere"})
HANG_S = 0.3
"""Time limit of what hangs on purpose."""
SOON_S = 20.0


def sync(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


async def look(check: checks.Check, folder: Path = Path("/nonexistent"), target: Target = TARGET) -> Result:
    """One look, as the prober takes it, its deadline included."""
    prober = Prober(folder, lambda job: None, lambda job, result, took_s: None)
    try:
        return (await prober._result(Job(f"web-alpha-1/{check.name}", check, lambda: target), target))[0]
    finally:
        await prober._end_all()


Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(answer: Answers | bytes, close: bool = True) -> AsyncIterator[int]:
    """A TCP server; bytes: what it says to whatever it is asked."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if callable(answer):
                await answer(reader, writer)
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                if not close:
                    await asyncio.sleep(3600)
            writer.close()

    served = await asyncio.start_server(say, "127.0.0.1", 0)
    try:
        yield served.sockets[0].getsockname()[1]
    finally:
        served.close()


def http(port: int, **fields: Any) -> checks.HttpCheck:
    given: dict[str, Any] = {
        "name": "web",
        "url": f"http://127.0.0.1:{port}/health",
        "timeout_s": 5.0,
    } | fields
    return checks.HttpCheck(**given)


def ping(endpoint: str, **fields: Any) -> checks.ZmqCheck:
    return checks.ZmqCheck(name="ping", endpoint=endpoint, **{"timeout_s": 5.0, **fields})
