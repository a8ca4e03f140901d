"""`events -f` and `after=` on agents whose wall clocks jump, differ, or whose events file is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents.settings import AgentSettings
from controlplane import store
from controlplane.floor import folders
from controlplane.host import identity
from controlplane.host.system_clock import SystemClock
from controlplane.store import Store
from tests.support import agents
from tests.support.agents import KEYS, Client, in_process, site_folder, site_in_process
from tests.support.floors import HFTCTL
from tests.support.http_served import sync

DAY_NS = 86_400 * 10**9
HOUR_NS = 3_600 * 10**9


class SetClock(SystemClock):
    """The machine's clock, with a wall clock that somebody has set."""

    def __init__(self, ahead_ns: int = 0) -> None:
        self.ahead_ns = ahead_ns

    def wall_ns(self) -> int:
        return super().wall_ns() + self.ahead_ns


@contextlib.asynccontextmanager
async def followed(folder: Path, *hosts: str) -> AsyncIterator[list[dict[str, Any]]]:
    """What `hftctl events -f` prints."""
    me = identity.identify("floord")
    assert me is not None
    found = {"hosts": hosts, "run_dir": str(folder / "run"), "floord": identity.to_plain(me), "processes": {}}
    folders.Folders(folder).floor_json.write_text(json.dumps(found))
    command = [*HFTCTL, "events", "-f", "-o", "json", "--site-dir", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    seen: list[dict[str, Any]] = []

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            seen.append(json.loads(line))  # noqa: PERF401  one by one, as they come

    reading = asyncio.create_task(read())
    try:
        yield seen
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await reading


async def until_told(seen: list[dict[str, Any]], host: str, kind: str) -> dict[str, Any]:
    """The first such event that no earlier call has taken."""

    def found() -> dict[str, Any] | None:
        return next((event for event in seen if (event["host"], event["kind"]) == (host, kind)), None)

    event: dict[str, Any] = await agents.until(found)
    seen.remove(event)
    return event


class Trouble:
    """An alarm on every host, which begins and ends as it is told: two events each."""

    def __init__(self, writer: Store) -> None:
        self._writer = writer

    async def begin(self) -> None:
        await self._writer.put(KEYS.spec("rubbish"), b"{")

    async def end(self) -> None:
        await self._writer.delete(KEYS.spec("rubbish"))


async def last_cursor(agent: Client) -> str:
    found = await agent.until("/v1/site/events", lambda found: found)
    return str(found[-1]["cursor"])


async def kinds_after(agent: Client, cursor: str, kind: str, hosts: set[str]) -> list[dict[str, Any]]:
    def all_told(found: list[dict[str, Any]]) -> bool:
        return {event["host"] for event in found if event["kind"] == kind} == hosts

    found: list[dict[str, Any]] = await agent.until(f"/v1/site/events?after={cursor}", all_told)
    return found


@sync
async def test_events_are_followed_over_a_day_s_jump_and_between_clocks_an_hour_apart() -> None:
    clocks = {"alpha": SetClock(DAY_NS), "beta": SetClock(-HOUR_NS)}
    async with site_in_process(hosts=("alpha", "beta"), clocks=clocks) as ([alpha, beta], writer):
        trouble = Trouble(writer)
        async with followed(alpha.folder, "alpha", "beta") as seen:
            await until_told(seen, "beta", "agent.started")
            await trouble.begin()
            for host in clocks:  # alpha's stamps are from tomorrow
                await until_told(seen, host, "alarm.raised")
            before = await last_cursor(beta)
            clocks["alpha"].ahead_ns = 0
            await trouble.end()
            for host in clocks:
                await until_told(seen, host, "alarm.cleared")
            found = await kinds_after(beta, before, "alarm.cleared", set(clocks))
            assert [event["kind"] for event in found].count("alarm.cleared") == 2
            assert await alpha.json(f"/v1/site/events?after={found[-1]['cursor']}") == []
        code, text, _ = await alpha.get("/v1/site/events?after=3")
        assert code == 400 and "a number counts the events of one host" in text and "`cursor`" in text
        code, text, _ = await alpha.get(f"/v1/events?after={10**18}")
        assert code == 400 and "the events of alpha are numbered up to" in text


@sync
async def test_an_agent_s_restart_loses_no_event_and_a_lost_file_is_told() -> None:
    where = "memory://event-clocks"
    writer = store.connect(where)
    clock = SetClock()
    with site_folder() as folder:
        settings = AgentSettings("lab", "alpha", folder, folder / "run", where, keeper=False)
        async with contextlib.AsyncExitStack() as stack:
            async with in_process(settings, clock) as alpha:
                before = await last_cursor(alpha)
                seen = await stack.enter_async_context(followed(folder, "alpha"))
                await until_told(seen, "alpha", "agent.started")
            clock.ahead_ns = -DAY_NS
            async with in_process(settings, clock) as alpha:
                started = await until_told(seen, "alpha", "agent.started")
                found = await kinds_after(alpha, before, "agent.started", {"alpha"})
                assert started["n"] in [event["n"] for event in found]
                assert not any(event["kind"] == "events.lost" for event in found)
                [one_host, *_] = await alpha.json(f"/v1/site/events?after={started['n'] - 1}")
                assert one_host["n"] == started["n"], "on a site of one host a number will do"
            (folder / "hosts" / "alpha" / "events.jsonl").unlink()
            async with in_process(settings, clock):
                told = await until_told(seen, "alpha", "events.lost")
                assert "its events file was lost" in told["fields"]["text"]
                again = await until_told(seen, "alpha", "agent.started")
                assert again["n"] < started["n"]
        await writer.close()
