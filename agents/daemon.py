"""hft-agentd: the host agent as a process. Names every task in one place.

    hft-agentd --site S --host H --site-dir D --run-dir R --store KIND://HOST:PORT [--http-port 0]
    [--no-keeper]

SIGTERM (and SIGKILL) leave daemons and keeper running: the next agent adopts them. Only POST /v1/shutdown,
which `hftctl down` sends, ends the instances in order, then the keeper, then the agent, with exit code 0.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from agents import (
    audit_head,
    floor_watch,
    host_record,
    keeper_process,
    last_specs,
    reason_events,
    store_watch,
)
from agents.agent import SITE_NEWS, Agent
from agents.http import application, instance_ports, listening
from agents.settings import CHECK_S, STATUS_EVERY_S, AgentSettings
from agents.site_secret import SiteSecret
from controlplane import registry
from controlplane import store as stores
from controlplane.clock import Clock
from controlplane.errors import HftctlError
from controlplane.host import cpu, locks, run, title
from controlplane.http import server
from controlplane.operations import failover
from controlplane.site import anti_entropy
from controlplane.site.follower import Follower
from controlplane.store import Keys, Store, endpoint, existing
from hftd.sched import slice

WITHDRAW_S = 1.0
CLEAN_UP_S = 10.0
"""After a signal, or after all has been stopped: closing two sockets and a client takes milliseconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    # The agent and the interpreters that it starts yield to what waits for a tick; keepers and daemons ask
    # for a short slice once they are up.
    slice.ask(slice.LONG_NS)
    given = _settings(arguments)
    title.show(f"hft-agentd {given.host}@{given.site}", sys.argv[1:])
    # Cancelled at once by a signal: nothing is handed over, everything here goes on without an agent.
    sys.exit(run.until_signalled(f"agent-{given.host}", lambda stop: serve(given), clean_up_s=CLEAN_UP_S))


def _settings(arguments: Sequence[str] | None) -> AgentSettings:
    parser = argparse.ArgumentParser(
        prog="hft-agentd", description="Starts and supervises one host's daemons, and answers for them."
    )
    parser.add_argument("--site", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--site-dir", required=True, type=Path)
    parser.add_argument("--run-dir", required=True, type=Path)
    existing.add_argument(parser)
    parser.add_argument("--http-address", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=0, help="0: any free port")
    parser.add_argument(
        "--http-name",
        action="append",
        default=[],
        help="a name by which clients reach it, besides its address, its host and this machine's name",
    )
    parser.add_argument(
        "--check-s",
        type=float,
        default=CHECK_S,
        metavar="S",
        help="on Consul: between two of its probes of an instance",
    )
    parser.add_argument(
        "--no-keeper", action="store_true", help="only for tests of the agent alone: no instance will lead"
    )
    given = parser.parse_args(arguments)
    journal, check_dir = os.environ.get("HFT_JOURNAL_DIR"), os.environ.get("HFT_CHECK_DIR")
    return AgentSettings(
        site=given.site,
        host=given.host,
        site_dir=given.site_dir.resolve(),
        run_dir=given.run_dir.resolve(),
        store=given.store,
        http_address=given.http_address,
        http_port=given.http_port,
        http_names=tuple(given.http_name),
        check_s=given.check_s,
        keeper=not given.no_keeper,
        journal_dir=Path(journal) if journal else None,
        check_dir=Path(check_dir) if check_dir else None,
    )


async def serve(given: AgentSettings, store: Store | None = None, clock: Clock | None = None) -> int:
    """Run until told to end; returns the exit code.

    Raises:
        InUse: this host has an agent already. InvalidSettings: not on this machine.
    """
    cpu.require_ordered_stores()
    lock = locks.take(
        given.site_dir / "hosts" / given.host / "agent.lock", f"agent-{given.host}", "a host has one agent"
    )
    store = store or stores.connect(given.store)
    keys = Keys(given.site)
    follower = Follower(store, keys, clock, registrations=registry.watch(store, keys))
    agent = Agent(given, follower, clock)
    agent.anti_entropy = anti_entropy.AntiEntropy(
        follower,
        store,
        keys,
        registrations=lambda: registry.watch(store, keys, patient=True),
        also=agent.discovery.recheck,
        report=lambda kind, fields: agent.report(kind, **fields),
        every_s=given.compare_every_s,
    )
    host_records = host_record.HostRecords(agent, store, keys)
    failovers = failover.Failovers(store, keys, follower)
    if given.keeper:
        agent.keeper = keeper_process.KeeperProcess(
            agent.paths,
            keeper_process.keeper_command(given.site, agent.paths, given.store, given.check_s),
            table=agent.keeper_table,
            report=agent.report,
            heard=agent.keeper_heard,
            profile=lambda: follower.profile,
            troubled=agent.keeper_troubled,
        )
    if open_ports := endpoint.unguarded(given.store):
        text = (
            f"the store answers at {', '.join(open_ports)} without password, token or certificate: every "
            "user of this machine can read and write it, the site's secret too; a unix socket "
            "(etcd://unix:/PATH) closes that, or an identity (hftctl up --store-cert, --store-token or "
            "--store-user)"
        )
        agent.alarms.raise_("store.open", "warning", text)
    http = server.Server(application.application(agent, failovers, store, keys), report=agent.report)
    site_secret = SiteSecret(given.site_dir, store, keys, report=agent.report, alarm=agent.alarm)
    try:
        agent.bus.open()
        agent.instances.adopt()
        await listening.listen(http, agent)
        agent.report("agent.started", pid=os.getpid(), adopted=len(agent.instances), url=agent.url)
        await site_secret.at_start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site_secret.keep_agreeing, name="site secret")
            await tasks.start(agent.supervisor.run, name="supervisor")
            tasks.start_soon(follower.run, name="site view")
            tasks.start_soon(_tell_changes, follower, agent, name="site changes")
            tasks.start_soon(agent.anti_entropy.run, name="comparison with the store")
            tasks.start_soon(host_records.run, name="host record")
            tasks.start_soon(instance_ports.HealthPorts(agent).run, name="health ports")
            tasks.start_soon(audit_head.copy_audit_heads, agent.instances, store, keys, name="audit head")
            tasks.start_soon(
                last_specs.confirm_stops,
                given.host,
                lambda: follower.view.tombstones if follower.view else {},
                lambda: [instance.slot.service for instance in agent.instances],
                store,
                keys,
                name="removed services",
            )
            tasks.start_soon(agent.overrides.run, store, keys, name="breaker overrides")
            tasks.start_soon(agent.wanted_config.keep, name="configuration on disk")
            tasks.start_soon(store_watch.ask_store_health, agent, store, name="store health")
            tasks.start_soon(floor_watch.look_after_floord, agent, name="hft-floord")
            tasks.start_soon(reason_events.tell_reasons, agent, name="reasons")
            tasks.start_soon(agent.board.run, name="health checks")
            if agent.keeper is not None:
                tasks.start_soon(agent.keeper.run, name="keeper")
            await agent.shutdown.wait()
            await _go_down(agent, host_records, store, keys)
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await http.close(listening.STOP_S)
            agent.bus.close()
            await store.close()
        lock.close()
    return 0


async def _tell_changes(follower: Follower, agent: Agent) -> None:
    news = follower.news(*SITE_NEWS)
    await follower.first_view()
    agent.site_changed()
    while True:
        changes = None
        with anyio.move_on_after(STATUS_EVERY_S if agent.last_specs.missing else math.inf):
            changes = await news.next()
        agent.site_changed(changes)  # None: hosts may have said that they stopped what has no spec


async def _go_down(agent: Agent, host_records: host_record.HostRecords, store: Store, keys: Keys) -> None:
    auditors = audit_head.services(agent.instances)
    agent.leaving = True
    if agent.keeper is not None:
        agent.keeper.changed()
    await agent.supervisor.stop_all()
    agent.last_specs.forget()
    if agent.keeper is not None:
        await agent.keeper.stop()
    with anyio.move_on_after(WITHDRAW_S):
        try:
            await audit_head.copy_last_audit_head(agent.given.site_dir, store, keys, auditors)
            await host_records.withdraw()
        except (HftctlError, OSError, msgspec.DecodeError) as exc:
            agent.report(
                "agent.records_left", reason=str(exc)
            )  # the host's ends with its lease; the head on disk is the newest
    agent.paths.http_socket.unlink(missing_ok=True)
    agent.report("agent.stopped")


if __name__ == "__main__":
    main()
