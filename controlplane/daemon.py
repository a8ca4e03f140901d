"""hft-controld: the elected controller of a site: its view, its HTTP, and the tasks that only an elected one
has, such as rollouts of configuration; later sagas and reconciliation.

Elected by a key under a store lease (`controller`): one writes it, the others watch it and serve reads
meanwhile. Nothing fast waits for it: failover, health and trading go on without any controller. A record of a
process of this boot that is dead is replaced at once, so that a restart costs no TTL.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

import anyio
import msgspec

from controlplane import backup, model, registry, store
from controlplane.api import http
from controlplane.errors import HftctlError
from controlplane.host import identity, log, run, title
from controlplane.host.system_clock import SystemClock
from controlplane.http import server
from controlplane.model import records
from controlplane.model.observed import Alarm
from controlplane.operations import archive, config_rollout
from controlplane.site import anti_entropy, config_status, document, reasons, status
from controlplane.site.follower import Follower
from controlplane.site.last_heard import LastHeard
from controlplane.site.status import Now
from controlplane.site.view import SiteView
from controlplane.store import Health, existing

LEASE_TTL_S = 5.0
"""A controller whose machine is gone is replaced after this; no trading goes through it, so there is no
hurry."""
RENEW_EVERY_S = 1.0
HEALTH_EVERY_S = 1.0
STOP_S = 2.0
SOCKET = "controld.sock"
"""In the run folder; answers what only the floor's own user may ask."""


class Controller:
    def __init__(self, site: str, client: store.Store, follower: Follower) -> None:
        self.site = site
        self.keys = store.Keys(site)
        self.client = client
        self.follower = follower
        self.clock = SystemClock()
        self.last_heard = LastHeard()
        self.config_lag = config_status.ConfigLag()
        self.elected = False
        self.damaged_said = 0
        """Revision of the controller's record that does not decode, as it was said last."""
        self.url = ""
        self.store_health = Health("", (), False, "", None, "not asked yet")
        self.process = identity.myself("controld")
        self.backups: backup.Scheduled | None = None
        """None: none are taken."""
        self.archive: archive.Archive | None = None
        self.rollouts = config_rollout.ConfigRollouts(
            client,
            self.keys,
            self.clock,
            view=lambda: follower.view,
            age_s=follower.age_s,
            silent_ms=follower.silent_ms,
        )

    def __repr__(self) -> str:
        return f"<Controller {self.site} {self.url} {'elected' if self.elected else 'waiting'}>"

    def store_reachable(self) -> bool:
        return self.store_health.healthy

    def status(self) -> document.StatusDocument | None:
        view = self.follower.view
        if view is None:
            return None
        return status.build(view, self._now(view))

    def reasons(self) -> list[reasons.Reason] | None:
        view = self.follower.view
        return None if view is None else status.why_not_healthy(view, self._now(view))

    def _now(self, view: SiteView) -> Now:
        follower = self.follower
        return Now(
            self.clock.wall_ns(),
            self.store_health,
            follower.lease_remaining_ms(),
            silent_ms=follower.silent_ms(),
            gone=self.last_heard.look(view.hosts),
            config_lag_ms=self.config_lag.look(view, self.clock.boot_ns()),
        )

    # --- tasks ----------------------------------------------------------------------------------------------

    async def watch_health(self) -> None:
        while True:
            try:
                self.store_health = await self.client.health()
            except (HftctlError, OSError) as exc:
                before = self.store_health
                self.store_health = Health(
                    before.kind, before.endpoints, False, before.version, None, str(exc)
                )
            if self.follower.view is not None:
                self.last_heard.look(self.follower.view.hosts)
                self.config_lag.look(self.follower.view, self.clock.boot_ns())
            await asyncio.sleep(HEALTH_EVERY_S)

    async def campaign(self) -> None:
        """Hold the key while we can; stand by while another does."""
        lease: store.Lease | None = None
        while True:
            try:
                if lease is None:
                    lease = await self.client.lease(LEASE_TTL_S)
                else:
                    await lease.keep_alive()
                self.set_elected(await self.hold(lease))
            except (HftctlError, OSError) as exc:
                # Not elected the moment it is not certain: what an elected controller does is not idempotent.
                self.set_elected(False, str(exc))
                lease = None
            except asyncio.CancelledError:
                if lease is not None:
                    with contextlib.suppress(HftctlError), anyio.move_on_after(1.0, shield=True):
                        await lease.revoke()
                raise
            await asyncio.sleep(RENEW_EVERY_S)

    async def hold(self, lease: store.Lease) -> bool:
        """True when the key is ours: it was, it was free, or its writer is a dead process of this boot."""
        key, entry = self.keys.controller(), await self.client.get(self.keys.controller())
        record, since_ns = None if entry is None else self._holder(entry), self.clock.wall_ns()
        if record is not None:
            holder = record.process
            if holder == self.process:
                if self.elected and record.alarms == self.alarms():
                    return True
                since_ns = record.since_ns
            elif holder.boot_id != self.process.boot_id or identity.runs(holder):
                return False
        value = model.encode(records.ControllerRecord(self.url, self.process, since_ns, self.alarms()))
        written = await self.client.put(key, value, expect=entry.revision if entry else 0, lease=lease)
        return isinstance(written, store.Committed)

    def _holder(self, entry: store.Entry) -> records.ControllerRecord | None:
        """None: it does not decode, so no controller wrote it, and whoever is elected writes over it."""
        try:
            return model.decode(records.ControllerRecord, entry.value)
        except msgspec.DecodeError as exc:
            if entry.revision != self.damaged_said:  # once, where it cannot be replaced at once
                self.damaged_said = entry.revision
                log.warning(
                    "controller.damaged", key=entry.key, reason=str(exc), consequence="it is replaced"
                )
            return None

    def alarms(self) -> tuple[Alarm, ...]:
        """Those that it raises itself; the agents show them."""
        own = self.rollouts.alarms + (self.backups.alarms if self.backups is not None else ())
        return own + (self.archive.alarms if self.archive is not None else ())

    def set_elected(self, elected: bool, why: str = "") -> None:
        if elected != self.elected:
            self.elected = elected
            if elected:
                log.info("controller.elected")
            else:
                log.warning("controller.not_elected", why=why)


async def serve(controller: Controller, given: argparse.Namespace) -> server.Server:
    """Raises InUse naming address and port."""
    serving = server.Server(http.application(controller), report=log.error)
    names = (socket.gethostname(), *given.http_name)
    port = await serving.listen_tcp(given.http_address, given.http_port, names=names)
    controller.url = f"http://{given.http_address}:{port}"
    await serving.listen_unix(given.run_dir / SOCKET)
    return serving


async def keep(given: argparse.Namespace) -> int:
    client = store.connect(given.store)
    keys = store.Keys(given.site)
    follower = Follower(client, keys, registrations=registry.watch(client, keys, catalogue=False))
    entropy = anti_entropy.AntiEntropy(
        follower, client, keys, registrations=lambda: registry.watch(client, keys, catalogue=False)
    )
    controller = Controller(given.site, client, follower)
    settings = backup.schedule.of_environment(os.environ, given.site_dir)
    if settings.every_s:
        controller.backups = backup.Scheduled(given.store, keys, settings, own_store=given.own_store)
    controller.archive = archive.Archive(client, keys, given.site_dir)
    serving = await serve(controller, given)
    try:
        log.info("controller.serves", url=controller.url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(controller.follower.run, name="view")
            tasks.start_soon(entropy.run, name="comparison with the store")
            tasks.start_soon(controller.watch_health, name="store health")
            tasks.start_soon(controller.campaign, name="campaign")
            tasks.start_soon(controller.archive.run, lambda: controller.elected, name="archive")
            tasks.start_soon(controller.rollouts.run, lambda: controller.elected, name="rollouts")
            if controller.backups is not None:
                tasks.start_soon(controller.backups.run, lambda: controller.elected, name="backups")
    finally:
        with anyio.CancelScope(shield=True):
            await serving.close(STOP_S)
            await client.close()
    return 0


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="hft-controld", description="The controller of a site; hft-floord or a unit starts it."
    )
    parser.add_argument("--site", required=True)
    existing.add_argument(parser)
    parser.add_argument("--site-dir", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument(
        "--own-store",
        action="store_true",
        help="nobody else's data is in the store: beside each backup the store's own snapshot is taken",
    )
    parser.add_argument("--http-address", default="127.0.0.1")
    parser.add_argument(
        "--http-port", type=int, default=0, help="0: any free one; the controller's record tells"
    )
    parser.add_argument(
        "--http-name",
        action="append",
        default=[],
        help="a name by which clients reach it, besides its address and this machine's name",
    )
    given = parser.parse_args(arguments)
    title.show("hft-controld", sys.argv[1:])
    # Cancelled at once by a signal: `campaign` gives the key back, the rest only reads.
    sys.exit(run.until_signalled("controld", lambda stop: keep(given)))


if __name__ == "__main__":
    main()
