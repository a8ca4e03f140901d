"""One owner's services at the host's own Consul agent: put there, kept there, taken out.

What it promises, beside the port (base.py): every keep-alive interval the agent is asked what it holds, and
what it lost (its data, or somebody's `consul services deregister`) is put again, with its check and in the
maintenance that it was in. A check keeps its state when an instance is registered again. An agent that is
gone is said once and costs nothing else: who leads, and the endpoints that are fenced, are in the KV.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlplane.errors import HftctlError, Permanent
from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry.consul import definition
from controlplane.registry.consul.definition import CheckTimes
from controlplane.registry.consul.local_agent import LocalAgent, serves_now

RETRY_S = 0.5
Report = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Leaving:
    """Told apart by identity."""

    process: Process | None


class AgentServices:
    def __init__(
        self, agent: LocalAgent, site: str, times: CheckTimes, keep_s: float, report: Report
    ) -> None:
        self._agent, self._site, self._times, self._keep_s = agent, site, times, keep_s
        self._report = report
        self._desired: dict[str, Registration] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._held: dict[str, Registration] = {}
        self._maintained: dict[str, str] | None = None
        """Instance -> why, as an operator said it by hftctl; None: the store has not said yet."""
        self._by_hand: dict[str, str] = {}
        """The same by `consul maint`, as last seen at the agent: it outlives what it was said of."""
        self._refused: dict[str, type[HftctlError]] = {}
        self.trouble = ""
        """Why the agent does not have what it should; empty: it has."""
        self._failing: type[HftctlError] | None = None
        self._look = False
        """The next round asks what the agent holds."""
        self._news = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<AgentServices at {self._agent.address}: {len(self._held)} of {len(self._desired)} held"
            f"{', failing: ' + self._failing.__name__ if self._failing else ''}>"
        )

    # --- what the owner says --------------------------------------------------------------------------------

    def register(self, registration: Registration) -> None:
        name = registration.instance
        if self._closed or self._desired.get(name) == registration:
            return
        self._desired[name] = registration
        self._leaving.pop(name, None)
        self._news.set()

    def update(self, registration: Registration) -> None:
        desired = self._desired.get(registration.instance)
        if desired is not None and desired.process == registration.process:
            self.register(registration)

    def deregister(self, service: str, instance: str, process: Process | None = None) -> None:
        desired = self._desired.get(instance)
        if self._closed or (process is not None and desired is not None and desired.process != process):
            return
        self._desired.pop(instance, None)
        self._leaving[instance] = _Leaving(process)
        self._news.set()

    def maintain(self, reasons: Mapping[str, str]) -> None:
        """By instance, of the whole site; in place of those before."""
        if reasons != self._maintained:
            self._maintained = dict(reasons)
            self._look = True
            self._news.set()

    def held(self) -> Mapping[str, Registration]:
        return {name: self._held[name] for name in sorted(self._held)}

    # --- making the agent agree -----------------------------------------------------------------------------

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        looked_s = loop.time()
        while not self._closed:
            self._news.clear()
            self._look |= loop.time() - looked_s >= self._keep_s
            try:
                if self._look:
                    await self._look_at_agent()
                    self._look, looked_s = False, loop.time()
                await self._withdraw()
                await self._put()
                wait_s = max(0.0, looked_s + self._keep_s - loop.time())
                self._recovered()
            except HftctlError as exc:
                self._fail(exc)
                self._look, wait_s = True, RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()

    async def close(self) -> None:
        """Raises Unavailable: what is held leaves when its check has been critical for long enough."""
        self._closed = True
        self._news.set()
        leaving = {**self._leaving, **dict.fromkeys(self._held, _Leaving(None))}
        for table in (self._desired, self._leaving, self._held, self._refused):
            table.clear()
        for name in leaving:
            await self._agent.deregister(name)

    async def _look_at_agent(self) -> None:
        """What it holds of ours, and in which maintenance."""
        services = await self._agent.services(self._site)
        checks = await self._agent.checks(self._site)
        for name, registration in list(self._held.items()):
            found = services.get(name)
            if found is None:
                fault = "deleted"
            elif not definition.said(definition.service(registration, self._site), found):
                fault = "overwritten"
            elif definition.check_id(name) not in checks:
                fault = "without its check"
            else:
                await self._agree_on_maintenance(name, checks)
                continue
            if self._held.get(name) is registration:
                del self._held[name]
                self._report("registration.lost", {**self._where(name), "found": fault})

    async def _agree_on_maintenance(self, name: str, checks: Mapping[str, definition.Check]) -> None:
        found = checks.get(definition.SERVICE_MAINTENANCE + name)
        self._remember(name, found)
        if self._maintained is None:
            return
        wanted = self._maintained.get(name, "")
        if wanted and (found is None or found.notes != definition.MARK + wanted):
            await self._agent.maintain(name, definition.MARK + wanted)
        elif found is not None and not wanted and name not in self._by_hand:
            await self._agent.maintain(name, "")

    def _remember(self, name: str, found: definition.Check | None) -> None:
        if found is None or found.notes.startswith(definition.MARK):
            self._by_hand.pop(name, None)
        else:
            self._by_hand[name] = found.notes or definition.NO_REASON

    async def _withdraw(self) -> None:
        for name, leaving in list(self._leaving.items()):
            try:
                found = await self._agent.service(name)
                if found is not None and self._may_go(found, leaving.process):
                    checks = await self._agent.checks(self._site)
                    self._remember(name, checks.get(definition.SERVICE_MAINTENANCE + name))
                    await self._agent.deregister(name)
                    self._report("deregistered", self._where(name))
            except Permanent as exc:
                self._refuse(name, exc)
                continue
            self._held.pop(name, None)
            self._refused.pop(name, None)
            if self._leaving.get(name) is leaving:
                del self._leaving[name]

    def _may_go(self, found: definition.Service, process: Process | None) -> bool:
        known = self._held.get(found.id)
        if process is None or (known is not None and known.process == process):
            return True
        stands = definition.registration(found, self._site)
        return stands is None or stands.process == process

    async def _put(self) -> None:
        for name, registration in list(self._desired.items()):
            held = self._held.get(name)
            if held == registration or self._desired.get(name) is not registration:
                continue
            service = definition.service(registration, self._site)
            try:
                known_check = (
                    held is not None
                    and held.process == registration.process
                    and (definition.check_url(held) == definition.check_url(registration))
                )
                check = None
                if not known_check:
                    serves = await serves_now(definition.check_url(registration))
                    check = definition.check(registration, self._times, "passing" if serves else "critical")
                await self._agent.register(service, check)
                if why := (self._maintained or {}).get(name):
                    await self._agent.maintain(name, definition.MARK + why)
                elif why := self._by_hand.get(name):
                    await self._agent.maintain(name, why)
            except Permanent as exc:
                self._refuse(name, exc)
                continue
            if self._closed:
                return
            self._held[name] = registration
            self._refused.pop(name, None)
            self._report("registered", self._where(name))

    # --- what is said of it ---------------------------------------------------------------------------------

    def _where(self, name: str) -> dict[str, object]:
        return {"instance": name, "consul_agent": self._agent.address}

    def _refuse(self, name: str, exc: HftctlError) -> None:
        """This one the agent does not take: say so once, go on with the others, try again each round."""
        if self._refused.get(name) is not type(exc):
            self._refused[name] = type(exc)
            self._report("registration.refused", {**self._where(name), "reason": str(exc)})

    def _fail(self, exc: HftctlError) -> None:
        if self._failing is type(exc):
            return
        self._failing = type(exc)
        self.trouble = (
            f"Consul's agent at {self._agent.address} does not take this host's registrations: {exc}; "
            "leaders and fencing do not depend on it, but `consul catalog` and DNS show an old state; "
            "start the agent, and everything is registered again"
        )
        fields = {"reason": str(exc), "leaves_discovery_after_s": self._times.deregister_after_s}
        self._report("registration.failed", {**fields, "consul_agent": self._agent.address})

    def _recovered(self) -> None:
        if self._failing is not None:
            self._failing, self.trouble = None, ""
            self._report(
                "registration.recovered", {"held": len(self._held), "consul_agent": self._agent.address}
            )
