"""Waiting for a floor: until its store answers, until it is healthy; or saying what is not, with the last
lines of the log concerned.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane import store
from controlplane.errors import HftctlError, Unavailable
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.host import identity
from controlplane.http import unix
from controlplane.model import ServiceSpec
from controlplane.site import document, look

POLL_S = 0.1
ASK_S = 2.0
STORE_TIMEOUT_S = 90.0
"""hft-floord gives an embedded store 20 s, three times."""
LOG_LINES = 8
"""Of an instance that does not get healthy: enough for a traceback's end."""


def store_url(folders: Folders, floord: subprocess.Popen[bytes] | None = None) -> str:
    """Where the floor's store answers, once it does. `floord`: just started.

    Raises:
        HftctlError: hft-floord has ended; with its last lines. Unavailable: no answer in `STORE_TIMEOUT_S`.
    """
    began_mono_s = time.monotonic()
    while True:
        url = folders.store_url()
        reason = _silence(url) if url is not None else "not started yet"
        if url is not None and not reason:
            return url
        if floord_gone(folders, floord, began_mono_s):
            raise HftctlError("\n".join(["hft-floord has ended:", *last_lines(folders, "floord")]))
        if time.monotonic() - began_mono_s > STORE_TIMEOUT_S:
            lines = [
                f"the store does not answer: {reason}; nothing was applied",
                *last_lines(folders, "floord", 3),
            ]
            raise Unavailable("\n".join(lines))
        time.sleep(POLL_S)


def _silence(url: str) -> str:
    """Why the store does not serve; empty: it does."""

    async def ask() -> str:
        client = store.connect(url)
        try:
            health = await client.health()
            return "" if health.healthy else health.reason or "not healthy"
        except HftctlError as exc:
            return str(exc)
        finally:
            await client.close()

    return asyncio.run(ask())


def floord_gone(folders: Folders, floord: subprocess.Popen[bytes] | None, began_mono_s: float) -> bool:
    """After a moment for its start: hft-floord should run and does not."""
    if site_folders.locked(folders.floor_lock) or (floord is not None and floord.poll() is None):
        return False  # on a busy machine it may take its lock late
    return time.monotonic() - began_mono_s > 3


def last_lines(folders: Folders, name: str, count: int = LOG_LINES) -> list[str]:
    try:
        with folders.log(name).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [f"    {line}" for line in text.splitlines()[-count:]]


class ComingUp:
    """Looks at a floor that comes up: what it says of itself, and whether that is what was applied."""

    def __init__(
        self,
        folders: Folders,
        specs: Sequence[ServiceSpec],
        revisions: Mapping[str, int],
        floord: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """`specs`, `revisions`: what was applied, and as which revisions of the store."""
        self.folders = folders
        self.specs = specs
        self.revisions = revisions
        self.as_applied = False
        """It was healthy with what was applied. After that counts what the floor says of itself: another
        operator may have applied something else."""
        self._floord = floord
        self.began_mono_s = time.monotonic()

    def floor(self) -> dict[str, Any]:
        return self.folders.running() or {}

    def status(self) -> document.StatusDocument | None:
        """As the agents see the site: of one that does not find it healthy, where there is one. None: no
        agent answers.
        """
        floor = self.floor()
        sockets = [Path(floor["run_dir"]) / f"{host}.agent.sock" for host in floor.get("hosts", ())]
        told = unix.ask(sockets, "GET", "/v1/site/status", timeout_s=ASK_S)
        found = [
            document.decode(answer.body)
            for answer in told
            if isinstance(answer, unix.Answer) and answer.status == 200
        ]
        return min(found, key=lambda status: status.healthy, default=None)

    def floord_gone(self) -> bool:
        return floord_gone(self.folders, self._floord, self.began_mono_s)

    def healthy(self, status: document.StatusDocument | None) -> bool:
        """Healthy as asked for: the services are those applied, and every instance runs its newest spec with
        the settings that it is to have.
        """
        floord = identity.from_plain(self.floor().get("floord"))
        if status is None or not status.healthy or floord is None or not identity.runs(floord):
            return False
        if not self.as_applied:
            services = {service.name: service.instances for service in status.services}
            self.as_applied = services.keys() == {spec.name for spec in self.specs} and all(
                instance.spec_revision >= self.revisions.get(name, 0)
                and instance.config_revision == instance.config_wanted
                for name, instances in services.items()
                for instance in instances
            )
        return self.as_applied

    def wait_healthy(
        self, timeout_s: float, each: Callable[[document.StatusDocument | None], None] = lambda status: None
    ) -> bool:
        """False at the timeout, or as soon as hft-floord has ended."""
        deadline_mono_s = time.monotonic() + timeout_s
        while True:
            status = self.status()
            each(status)
            if self.healthy(status):
                return True
            if time.monotonic() > deadline_mono_s or self.floord_gone():
                return False
            time.sleep(POLL_S)

    def why_not(self) -> list[str]:
        """One line for each thing that is not as it should be; under each instance the end of its log."""
        floor, status = self.floor(), self.status()
        if self.floord_gone():
            return ["hft-floord has ended:", *self.last_lines("floord")]
        lines = []
        if status is None:
            lines.append("no agent answers yet:")
            for host in floor.get("hosts", ()):
                lines += self.last_lines(f"agent-{host}", 3)
            return lines
        if not status.store.healthy:
            kind = (floor.get("store") or {}).get("kind") or "floord"
            lines += ["store: not healthy:", *self.last_lines(kind, 3)]
        found = {i.id: i for service in status.services for i in service.instances}
        for spec in self.specs:
            for slot in spec.slots():
                instance = found.get(slot.instance)
                if instance is None:
                    lines.append(f"{slot.instance}: not started by its agent")
                elif not look.well(instance):
                    lines.append(
                        f"{slot.instance}: {instance.state}, {instance.health}, "
                        f"{instance.restarts} restarts: {instance.reason or 'no reason given'}"
                    )
                else:
                    continue
                lines += self.last_lines(slot.instance)
            led = any(service.name == spec.name and service.leader for service in status.services)
            if spec.mode == "active_standby" and not led:
                lines.append(f"{spec.name}: no instance leads")
        return lines or ["the agents report it as not healthy; see hftctl status"]

    def last_lines(self, name: str, count: int = LOG_LINES) -> list[str]:
        return last_lines(self.folders, name, count)
