"""Faults of an instance and of its agent, as Consul's own checks see them: the catalogue, DNS and the watch
that agents follow say the same. A real Consul, a real agent and keeper, a real daemon.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from controlplane.model import Mode
from tests.support import agents, checks, consul_servers, dns
from tests.support.agents import AgentProcess

pytestmark = pytest.mark.timeout(300)
AUDITD = "auditd-alpha-1"
DNS_PORT = checks.free_ports(1)[0]
BOUND_S = 60.0


@dataclass
class Host:
    """Of a site: the one that is hurt, and one beside it, which is asked."""

    consul: consul_servers.Server
    agent: AgentProcess
    beside: AgentProcess

    def catalogue(self) -> str:
        """passing or critical, as `consul catalog` counts it; "" when it is not there."""
        rows = json.loads(self.consul_says("health/service/auditd"))
        states = [
            [check["Status"] for check in row["Checks"] if check["ServiceID"] == AUDITD]
            for row in rows
            if row["Service"]["ID"] == AUDITD
        ]
        return "" if not states else "critical" if "critical" in states[0] else states[0][0]

    def consul_says(self, path: str) -> str:
        done = subprocess.run(
            ["curl", "-s", f"http://{self.consul.endpoint}/v1/{path}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def in_dns(self) -> bool:
        return bool(dns.service(DNS_PORT, "auditd.service.consul"))

    def endpoints(self) -> str:
        """As `hftctl endpoints` has it, of the other host's agent."""
        status: dict[str, Any] = self.beside.get("/v1/site/status") or {"services": []}
        rows = [row for each in status["services"] for row in each["instances"] if row["id"] == AUDITD]
        return rows[0]["health"] if rows else ""

    def pid(self) -> int:
        return (self.agent.pids() or {}).get(AUDITD, 0)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Every test leaves it serving."""
    with contextlib.ExitStack() as stack:
        consul = stack.enter_context(consul_servers.running(consul_servers.consul(), ports={"dns": DNS_PORT}))
        where = f"consul://{consul.endpoint}"
        agents.fill(where, agents.spec("auditd", mode=Mode.SINGLETON))
        words = ("--check-s", "0.5")
        made = Host(
            consul,
            stack.enter_context(agents.agent_process(where, *words)),
            stack.enter_context(agents.agent_process(where, *words, host="beta")),
        )
        until("it serves", lambda: serves(made))
        yield made


def until(what: str, claim: Callable[[], Any]) -> Any:
    deadline_mono_s = time.monotonic() + BOUND_S
    while not (found := claim()):
        assert time.monotonic() < deadline_mono_s, what
        time.sleep(0.02)
    return found


def serves(host: Host) -> bool:
    return host.catalogue() == "passing" and host.in_dns() and host.endpoints() == "passing"


def is_critical(host: Host) -> bool:
    return host.catalogue() == "critical" and not host.in_dns() and host.endpoints() == "critical"


def test_the_consul_binary_names_the_service_and_its_node(host: Host) -> None:
    said = subprocess.run(
        [host.consul.binary, "catalog", "services", f"-http-addr=http://{host.consul.endpoint}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "auditd" in said.stdout.split()


def test_an_instance_that_is_killed_is_out_at_once(host: Host) -> None:
    """And in again with its next process."""
    before = host.pid()
    seen: list[str] = []
    os.kill(before, signal.SIGKILL)
    until("out", lambda: seen.append(host.catalogue()) or seen[-1] != "passing")
    until("it serves again", lambda: host.pid() not in (0, before) and serves(host))


def test_an_instance_that_is_stopped_turns_critical_everywhere(host: Host) -> None:
    pid = host.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        until("critical", lambda: is_critical(host) or host.catalogue() == "")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until("it serves again", lambda: serves(host))


def test_an_agent_that_hangs_turns_its_instances_critical_everywhere(host: Host) -> None:
    """Nobody there can say any more that they are well."""
    assert host.agent.process is not None
    os.kill(host.agent.process.pid, signal.SIGSTOP)
    try:
        until("critical", lambda: is_critical(host))
    finally:
        os.kill(host.agent.process.pid, signal.SIGCONT)
    until("it serves again", lambda: serves(host))


def test_maintenance_is_shown_everywhere_and_outlives_the_process(host: Host) -> None:
    words = [host.consul.binary, "maint", f"-http-addr=http://{host.consul.endpoint}", f"-service={AUDITD}"]
    subprocess.run([*words, "-enable", "-reason=new bank"], check=True, timeout=30, capture_output=True)
    until("out of DNS", lambda: not host.in_dns())
    os.kill(before := host.pid(), signal.SIGKILL)
    until("a new process", lambda: host.pid() not in (0, before) and host.catalogue() == "critical")
    assert not host.in_dns()
    subprocess.run([*words, "-disable"], check=True, timeout=30, capture_output=True)
    until("it serves again", lambda: serves(host))
