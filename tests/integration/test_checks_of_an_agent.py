"""An agent with a real daemon and checks of it: what `hftctl health`, status, HTTP, metrics and events say,
and that a change of the checks restarts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane import model
from controlplane.clock import FakeClock
from controlplane.model import ServiceSpec, checks
from tests.support.agents import KEYS, Client, site_in_process, spec, until

AUDITD = spec("auditd")
SOON = {"interval_s": 0.2, "timeout_s": 1.0, "failures": 2}
INSTANCE = "auditd-alpha-1"


def sync(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 100))

    return run


class Web:
    """An HTTP server whose answer can be changed."""

    def __init__(self) -> None:
        self.status = 200

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 3\r\n\r\nyes" % self.status)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        finally:
            server.close()


def with_checks(*own: checks.Check) -> ServiceSpec:
    return replace(AUDITD, checks=own)


def written(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def rows(agent: Client) -> dict[str, Mapping[str, Any]]:
    return {row["check"]: row for row in (await agent.json("/v1/site/checks"))["checks"]}


def state_is(name: str, state: str) -> Callable[[Any], bool]:
    return lambda found: any(row["check"] == name and row["state"] == state for row in found["checks"])


async def events(agent: Client, kind: str) -> list[Mapping[str, Any]]:
    return [each["fields"] for each in await agent.json("/v1/events?limit=1000") if each["kind"] == kind]


@sync
async def test_every_instance_has_process_and_heartbeat_without_configuration() -> None:
    async with site_in_process(AUDITD) as ([agent], _):
        await agent.until("/v1/site/checks", state_is("heartbeat", "passing"))
        found = await rows(agent)
        assert list(found) == ["process", "heartbeat"]
        keys = {"service", "instance", "check", "kind", "state", "since", "output", "next_at"}
        assert all(set(row) == keys and row["instance"] == INSTANCE for row in found.values())
        assert found["process"]["output"].startswith("pid ") and found["process"]["kind"] == "process"
        [instance] = await agent.json("/v1/instances")
        os.kill(instance["pid"], signal.SIGSTOP)
        try:
            await agent.until("/v1/site/checks", state_is("heartbeat", "critical"))
            found = await rows(agent)
            assert found["heartbeat"]["output"].startswith("no status for")
            assert found["process"]["state"] == "passing", "it is there, and does nothing"
        finally:
            os.kill(instance["pid"], signal.SIGCONT)
        await agent.until("/v1/site/checks", state_is("heartbeat", "passing"))


@sync
async def test_a_check_that_turns_critical_is_in_health_status_metrics_and_events_and_so_is_its_end() -> None:
    web = Web()
    async with web.served() as url:
        check = checks.HttpCheck(name="web", url=url, **SOON)
        async with site_in_process(with_checks(check)) as ([agent], _):
            await agent.until("/v1/instances", lambda found: found and found[0]["health"] == "passing")
            assert (await rows(agent))["web"]["output"] == "200 x: yes"
            assert not await events(agent, "check.passing"), "that all is well is no news"

            web.status = 503
            [found] = await agent.until("/v1/instances", lambda found: found[0]["health"] == "critical")
            assert found["reason"] == "check web: 503 x: yes" and found["ready"]
            status, body, _ = await agent.get(f"/v1/instances/{INSTANCE}/health")
            assert status == 503 and '{"check":"web","kind":"http","state":"critical"}' in body
            assert (await agent.get("/health"))[0] == 503
            document = await agent.until("/v1/site/status", lambda found: not found["healthy"])
            assert any("check web: 503" in reason for reason in document["reasons"])
            page = (await agent.get("/metrics"))[1]
            assert f'hft_check_state{{check="web",host="alpha",instance="{INSTANCE}",kind="http",' in page
            [event] = await events(agent, "check.critical")
            assert (event["instance"], event["check"], event["output"]) == (INSTANCE, "web", "503 x: yes")

            web.status = 200
            await agent.until("/v1/instances", lambda found: found[0]["health"] == "passing")
            assert len(await events(agent, "check.passing")) == 1
            assert (await agent.get(f"/v1/instances/{INSTANCE}/health"))[0] == 200


@sync
async def test_a_change_of_the_checks_applies_and_restarts_nothing() -> None:
    web = Web()
    async with web.served() as url, site_in_process(AUDITD) as ([agent], store):
        await agent.until("/v1/site/checks", state_is("heartbeat", "passing"))
        [before] = await agent.json("/v1/instances")
        check = checks.HttpCheck(name="web", url=url, **SOON)
        await store.put(KEYS.spec("auditd"), model.encode(with_checks(check)))
        await agent.until("/v1/site/checks", state_is("web", "passing"))
        since = (await rows(agent))["web"]["since"]
        slower = checks.HttpCheck(name="web", url=url, **{**SOON, "interval_s": 0.5})
        await store.put(KEYS.spec("auditd"), model.encode(with_checks(slower)))
        await asyncio.sleep(0.3)
        assert (await rows(agent))["web"]["since"] == since, "other terms: it goes on from where it stood"
        elsewhere = checks.TcpCheck(name="web", address="127.0.0.1:1", **SOON)
        await store.put(KEYS.spec("auditd"), model.encode(with_checks(elsewhere)))
        await agent.until("/v1/site/checks", state_is("web", "critical"))
        await store.put(KEYS.spec("auditd"), model.encode(AUDITD))
        await agent.until("/v1/site/checks", lambda found: len(found["checks"]) == 2)
        [after] = await agent.until("/v1/instances", lambda found: found[0]["health"] == "passing")
        assert (after["pid"], after["restarts"]) == (before["pid"], 0)


@sync
async def test_a_ttl_passes_while_something_calls_in_and_is_critical_when_it_does_not() -> None:
    check = checks.TtlCheck(name="batch", ttl_s=1.0, interval_s=0.2)
    async with site_in_process(with_checks(check)) as ([agent], _):
        await agent.until("/v1/site/checks", lambda found: len(found["checks"]) == 3)
        path = f"/v1/instances/{INSTANCE}/checks/batch"
        assert (await agent.post(path, {"state": "warning", "output": "half"}))[0] == 200
        assert (await rows(agent))["batch"]["state"] == "warning"
        assert (await agent.post(path, {"state": "passing", "output": "done"}))[0] == 200
        row = (await rows(agent))["batch"]
        assert (row["state"], row["output"]) == ("passing", "done") and row["next_at"]
        await agent.until("/v1/site/checks", state_is("batch", "critical"))
        assert "no call for" in (await rows(agent))["batch"]["output"]
        for body in ({"state": "fine"}, {}, [], {"state": 3}):
            assert (await agent.post(path, body))[0] == 400
        status, said = await agent.post(f"/v1/instances/{INSTANCE}/checks/other", {"state": "passing"})
        assert status == 400 and "it has batch" in said["error"]
        assert (await agent.post("/v1/instances/nobody/checks/batch", {"state": "passing"}))[0] == 404


@sync
async def test_an_alias_is_as_the_other_service_is() -> None:
    positiond = replace(
        spec("positiond"), checks=(checks.AliasCheck(name="books", of="auditd", **{**SOON, "failures": 1}),)
    )
    async with site_in_process(AUDITD, positiond) as ([agent], _):
        await agent.until("/v1/site/checks", state_is("books", "passing"))
        [audit] = [each for each in await agent.json("/v1/instances") if each["service"] == "auditd"]
        os.kill(audit["pid"], signal.SIGSTOP)
        try:
            await agent.until("/v1/site/checks", state_is("books", "critical"))
            assert (await rows(agent))["books"]["output"] == "auditd: 0 of 1 instances passing"
        finally:
            os.kill(audit["pid"], signal.SIGCONT)
        await agent.until("/v1/site/checks", state_is("books", "passing"))


@sync
async def test_what_does_not_run_is_not_asked_and_its_process_says_why() -> None:
    asked = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    broken = replace(
        with_checks(checks.TcpCheck(name="port", address=f"127.0.0.1:{port}", **SOON)),
        settings={"sign_every_s": "never"},
    )
    async with site_in_process(broken) as ([agent], _):
        [found] = await agent.until(
            "/v1/instances",
            lambda found: found and found[0]["state"] == "backoff" and found[0]["crashes"] > 1,
        )
        assert "exit status" in found["reason"]
        row = (await rows(agent))["port"]
        assert (row["output"], row["next_at"], asked) == ("not checked yet", None, 0)
    server.close()


@sync
async def test_another_hosts_checks_are_asked_of_its_agent_and_a_silent_one_is_named() -> None:
    both = replace(spec("auditd", "alpha"), checks=())
    other = spec("positiond", "beta")
    async with site_in_process(both, other, hosts=("alpha", "beta")) as ([alpha, beta], _):
        for agent in (alpha, beta):
            await agent.until(
                "/v1/site/checks",
                lambda found: [row["state"] for row in found["checks"]] == ["passing"] * 4,
            )
        moved = beta.socket.with_suffix(".moved")
        beta.socket.rename(moved)
        try:
            found = (await alpha.json("/v1/site/checks"))["checks"]
            [row] = [row for row in found if row["instance"] == "positiond-beta-1"]
            assert row["state"] == "critical" and row["since"] is None
            assert "beta" in row["output"] and "hftctl logs agent-beta" in row["output"]
            assert len([row for row in found if row["state"] == "passing"]) == 2
        finally:
            moved.rename(beta.socket)


@sync
async def test_a_wall_clock_that_is_set_makes_no_check_begin_tomorrow() -> None:
    clock = FakeClock()
    async with site_in_process(AUDITD, clocks={"alpha": clock}) as ([agent], _):
        await agent.until("/v1/site/checks", state_is("process", "passing"))
        clock.advance_s(-86_400)
        row = (await rows(agent))["process"]
        assert row["since"] <= row["next_at"] and row["since"][:10] == row["next_at"][:10]


@sync
async def test_a_script_that_hangs_is_ended_with_its_agent(tmp_path: Path) -> None:
    check = checks.ScriptCheck(name="slow", program="slow.sh", **{**SOON, "timeout_s": 600})
    async with site_in_process() as ([agent], store):
        folder = agent.folder / "checks"
        folder.mkdir(mode=0o700)
        (folder / "slow.sh").write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 3600\n")
        (folder / "slow.sh").chmod(0o700)
        await store.put(KEYS.spec("auditd"), model.encode(with_checks(check)))
        pid = int(await until(lambda: written(tmp_path / "pid")))
        assert runs(pid)
    await until(lambda: not runs(pid))


@sync
async def test_a_daemon_answers_a_ping_at_its_own_sockets_for_as_long_as_its_loop_reads_them() -> None:
    ping = checks.ZmqCheck(name="ping", endpoint="events", expect="PONG", **{**SOON, "timeout_s": 0.5})
    stranger = checks.ZmqCheck(
        name="stranger", endpoint="events", send="rubbish", **{**SOON, "timeout_s": 0.2}
    )
    async with site_in_process(with_checks(ping)) as ([agent], store):
        await agent.until("/v1/site/checks", state_is("ping", "passing"))
        [instance] = await agent.json("/v1/instances")
        assert not instance["counters"].get("undecodable"), "a ping is no rubbish"
        os.kill(instance["pid"], signal.SIGSTOP)
        try:
            await agent.until("/v1/site/checks", state_is("ping", "critical"))
        finally:
            os.kill(instance["pid"], signal.SIGCONT)
        await agent.until("/v1/site/checks", state_is("ping", "passing"))
        await store.put(KEYS.spec("auditd"), model.encode(with_checks(ping, stranger)))
        await agent.until("/v1/site/checks", state_is("stranger", "critical"))
        await agent.until("/v1/instances", lambda found: found[0]["counters"].get("undecodable"))


async def over_tcp(agent: Client, target: str) -> str:
    host = (await agent.json("/v1/site/status"))["hosts"][0]
    port = int(host["url"].rpartition(":")[2].rstrip("/"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    return answer


@sync
async def test_over_tcp_nobody_reads_outputs_or_calls_in() -> None:
    web = Web()
    web.status = 500
    async with web.served() as url:
        check = checks.HttpCheck(name="web", url=url, **SOON)
        async with site_in_process(with_checks(check)) as ([agent], _):
            await agent.until("/v1/site/checks", state_is("web", "critical"))
            for target in ("/v1/checks", "/v1/site/checks", f"/v1/instances/{INSTANCE}/checks"):
                assert " 403 " in (await over_tcp(agent, target)).splitlines()[0], target
            for target in ("/v1/instances", f"/v1/instances/{INSTANCE}", f"/v1/instances/{INSTANCE}/health"):
                answer = await over_tcp(agent, target)
                assert '"reason":"check web"' in answer and "500 x" not in answer
            assert "500 x" in (await agent.get(f"/v1/instances/{INSTANCE}/health"))[1]
