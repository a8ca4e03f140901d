"""The checks of the whole site, as any agent tells them: its own and those that the other hosts' agents have.

How an instance is when its agent does not answer, nobody knows: each of such a host has one row that says so,
critical, so that a host that is silent is not a host without trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from agents.agent import Agent
from agents.checks import Row
from agents.http.other_hosts import OtherHosts
from controlplane import model
from controlplane.errors import Retryable, Unavailable
from controlplane.site import status

TIMEOUT_S = 1.0
"""Of another host's agent; all are asked at once."""


class SiteChecks:
    def __init__(self, agent: Agent, others: OtherHosts) -> None:
        self._agent, self._others = agent, others

    async def rows(self) -> list[Row]:
        """In order of instance. Raises Unavailable: the site has not been seen yet."""
        site = self._agent.site
        if site is None:
            raise Unavailable("the agent has not seen the store yet")
        here = self._agent.given.host
        hosts = sorted(status.hosts_of(site) - {here})
        parts = await asyncio.gather(*(self._of(host) for host in hosts))
        found = [*self._agent.board.rows(), *(row for part in parts for row in part)]
        return sorted(found, key=lambda row: row.instance)  # stable: checks stay in their order

    async def _of(self, host: str) -> list[Row]:
        try:
            answer = await self._others.fetch(host, "/v1/checks", timeout_s=TIMEOUT_S)
            if answer.status != 200:
                raise Retryable(f"host {host}: its agent answers {answer.status}")
            return model.decode(list[Row], answer.body)
        except Retryable as exc:
            return list(self._silent(host, str(exc)))
        except msgspec.DecodeError as exc:
            return list(self._silent(host, f"host {host}: its agent's answer does not decode: {exc}"))

    def _silent(self, host: str, why: str) -> Iterator[Row]:
        site = self._agent.site
        assert site is not None, "asked for before"
        record = site.hosts.get(host)
        instances = {
            slot.instance: slot.service
            for spec in site.specs.values()
            for slot in spec.slots()
            if slot.host == host
        }
        instances |= {each.id: each.service for each in record.instances} if record else {}
        said = f"{why}; how its instances are is not known: `hftctl logs agent-{host}`"
        for instance, service in instances.items():
            yield Row(service, instance, "agent", "heartbeat", "critical", None, said, None)
