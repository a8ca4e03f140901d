"""`hftd NAME --config FILE` as a process: registered in a real etcd, found there by others, its log where the
file says, gone when it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import zmq

from controlplane import model, store
from controlplane.host import identity
from controlplane.model import records
from hftd import bus
from hftd.runtime.agent_link import AgentLink
from hftd.runtime.log import Log
from hftd.standalone.agent import StandaloneAgent
from hftd.wire import codec, control, orders
from tests.support import claims, consul_servers, floors, servers

TTL_S = 5
WAIT_MS = 20_000
CONFIG = """
service: {{name: {daemon}, version: 0.1.0, environment: lab}}
etcd: {{endpoints: ["{endpoint}"], prefix: hft/standalone, lease_ttl: {ttl}}}
"""


class Standalone:
    """Standalone daemons, with a folder and an etcd of their own."""

    def __init__(self, folder: Path, run_dir: Path, server: servers.Server) -> None:
        self.folder, self.run_dir, self.server = folder, run_dir, server
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def config(self, daemon: str, more: str = "") -> Path:
        path = self.folder / f"{daemon}.yml"
        path.write_text(CONFIG.format(daemon=daemon, endpoint=self.server.endpoint, ttl=TTL_S) + more)
        return path

    def start(self, daemon: str, more: str = "") -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "HFT_SITE_DIR": str(self.folder / "site"),
            "XDG_RUNTIME_DIR": str(self.run_dir),
        }
        command = [sys.executable, "-m", "hftd", daemon, "--config", str(self.config(daemon, more))]
        with (self.folder / f"{daemon}.out").open("wb") as out:
            self.running[daemon] = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment
            )
        return self.running[daemon]

    def said(self, daemon: str) -> str:
        return (self.folder / f"{daemon}.out").read_text()


@pytest.fixture
def standalone(tmp_path: Path, server: servers.Server) -> Iterator[Standalone]:
    with tempfile.TemporaryDirectory(prefix="hft-") as run_dir:  # short, as sockets live in it
        made = Standalone(tmp_path, Path(run_dir), server)
        try:
            yield made
        finally:
            for process in made.running.values():
                process.terminate()
            for process in made.running.values():
                try:
                    process.wait(30)
                finally:
                    process.kill()
                    process.wait()
        assert list(made.run_dir.iterdir()) == [], "no socket is left"


CONSUL_CONFIG = """
service: {{name: {daemon}, version: 0.1.0, environment: lab}}
consul: {{address: "{endpoint}", service_id: {daemon}-by-hand, health_check_interval: 500ms}}
"""


class OnConsul(Standalone):
    def config(self, daemon: str, more: str = "") -> Path:
        path = self.folder / f"{daemon}.yml"
        path.write_text(CONSUL_CONFIG.format(daemon=daemon, endpoint=self.server.endpoint) + more)
        return path


def test_standalone_daemons_stand_in_consuls_catalogue_and_answer_its_checks(tmp_path: Path) -> None:
    """They find each other; Consul probes them itself: one that is stopped turns critical, one that ends is
    gone.
    """
    with (
        consul_servers.running(consul_servers.consul()) as server,
        tempfile.TemporaryDirectory(prefix="hft-") as run_dir,
    ):
        made = OnConsul(tmp_path, Path(run_dir), server)  # type: ignore[arg-type]

        def states(daemon: str) -> list[str]:
            with urllib.request.urlopen(
                f"http://{server.endpoint}/v1/health/checks/{daemon}", timeout=10
            ) as answer:
                return [row["Status"] for row in json.loads(answer.read())]

        try:
            for daemon in ("bookd", "marketd", "simd"):
                made.start(daemon)
            floors.wait_for(
                "the books follow the market",
                lambda: "market.session" in made.said("bookd") and " ready" in made.said("bookd"),
                pause_s=0.05,
            )
            for daemon in made.running:
                floors.wait_for(f"{daemon} passes", lambda daemon=daemon: states(daemon) == ["passing"])
            made.running["bookd"].send_signal(signal.SIGSTOP)
            floors.wait_for("critical", lambda: states("bookd") == ["critical"])
            made.running["bookd"].send_signal(signal.SIGCONT)
            floors.wait_for("passing", lambda: states("bookd") == ["passing"])
            made.running["marketd"].send_signal(signal.SIGTERM)
            assert made.running["marketd"].wait(30) == 0
            assert states("marketd") == [], "withdrawn at once"
        finally:
            for process in made.running.values():
                process.kill()
                process.wait(30)


async def registered(standalone: Standalone) -> dict[str, dict[str, object]]:
    client = store.connect(f"etcd://{standalone.server.endpoint}")
    try:
        snapshot = await client.range("hft/standalone/services/")
        return {
            key: json.loads(entry.value)
            for key, entry in snapshot.entries.items()
            if not key.endswith("/stranger")
        }
    finally:
        await client.close()


@pytest.mark.anyio
async def test_standalone_daemons_find_each_other_in_etcd_and_leave_it_when_they_end(
    standalone: Standalone,
) -> None:
    client = store.connect(f"etcd://{standalone.server.endpoint}")
    await client.put("hft/standalone/services/simd/stranger", b"\xffnot ours")
    await client.close()
    for daemon in ("bookd", "marketd", "simd"):
        standalone.start(daemon)
    floors.wait_for(
        "the books follow the market",
        lambda: "market.session" in standalone.said("bookd") and " ready" in standalone.said("bookd"),
        pause_s=0.05,
    )

    found = await registered(standalone)
    for daemon, process in standalone.running.items():
        row = found[f"hft/standalone/services/{daemon}/{daemon}-{process.pid}"]
        assert (row["service"], row["instance"], row["version"]) == (
            daemon,
            f"{daemon}-{process.pid}",
            "0.1.0",
        )
        assert row["address"] and "port" in row and isinstance(row["timestamp_ns"], int) and row["endpoints"]

    standalone.running["marketd"].send_signal(signal.SIGTERM)
    assert standalone.running["marketd"].wait(30) == 0
    assert "services/marketd/" not in "".join(await registered(standalone)), (
        "withdrawn at once, not left to its lease"
    )
    standalone.running["simd"].send_signal(signal.SIGINT)
    assert standalone.running["simd"].wait(30) in (0, 130)
    assert "Traceback" not in standalone.said("marketd") + standalone.said("simd")


@pytest.mark.anyio
async def test_a_standalone_receiver_knows_the_stores_tokens_and_believes_nothing_far_above(
    standalone: Standalone,
) -> None:
    standalone.start("auditd")
    client = store.connect(f"etcd://{standalone.server.endpoint}")
    link: bus.link.Dealer | None = None
    try:
        await client.put("hft/standalone/groups/damaged/epoch", b"{")
        async for snapshot in client.watch("hft/standalone/services/auditd/"):
            for entry in snapshot.entries.values():
                link = bus.link.Dealer("omsd-alpha-1.1", json.loads(entry.value)["endpoints"]["events"])
            if link is not None:
                break
        assert link is not None

        async def attached(epoch: int) -> bool:
            """Its answer to a claim of this epoch."""
            claimant = codec.ProcessOnWire("omsd-alpha-1", "b", 1, 1)
            token = codec.TokenOnWire(7, "omsd", epoch)
            claim = orders.Attach(codec.VERSION, 1, 0, "omsd", token, claimant)
            frame = codec.encode(claims.signed(claim, link, standalone.folder / "site"))
            assert link.socket.poll(WAIT_MS, zmq.POLLOUT) and link.send(frame)
            assert link.socket.poll(WAIT_MS), "no answer"
            answer = orders.decode_coming_back(link.socket.recv())
            assert isinstance(answer, orders.Attached)
            return answer.ok

        with anyio.fail_after(60):
            assert not await attached(70), "the store has no token of omsd yet"
            epoch = records.EpochRecord(incarnation=7, epoch=70)
            await client.put("hft/standalone/groups/omsd/epoch", model.encode(epoch))
            taken = False
            while not taken:
                await asyncio.sleep(0.05)
                taken = await attached(70)
            assert not await attached(70 + 65)
            assert await attached(70 + 64)
    finally:
        if link is not None:
            link.close()
        await client.close()


def test_the_log_goes_where_the_file_says(standalone: Standalone) -> None:
    log = standalone.folder / "simd.log"
    standalone.start("simd", f"logging: {{level: info, file: {log}}}")
    floors.wait_for(
        "a line in the log", lambda: log.exists() and "started pid=" in log.read_text(), pause_s=0.05
    )
    floors.wait_for(
        "registered", lambda: "registered key='hft/standalone/services/simd/" in log.read_text(), pause_s=0.05
    )
    assert standalone.said("simd") == ""


def test_below_its_level_nothing_is_logged(standalone: Standalone) -> None:
    standalone.start("simd", "logging: {level: error}")
    floors.wait_for("registered", lambda: asyncio.run(registered(standalone)), pause_s=0.05)
    standalone.server.kill()
    floors.wait_for("an error", lambda: "registration.failed" in standalone.said("simd"), pause_s=0.05)
    assert all(" registration.failed " in line for line in standalone.said("simd").splitlines())


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("consul: {address: 127.0.0.1:8500}", "consul: found"),
        ("logging: {level: loud}", "logging.level"),
        (
            "logging: {file: /proc/none/simd.log}",
            "logging.file /proc/none/simd.log: No such file or directory",
        ),
        ("strategy: {parameters: {sped: 3}}", "strategy.parameters.sped"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    standalone: Standalone, more: str, wanted: str
) -> None:
    assert standalone.start("simd", more).wait(60) == 2
    said = standalone.said("simd")
    assert said.startswith("hftd: ") and said.count("\n") == 1 and wanted in said and "simd.yml" in said


def test_a_run_folder_that_no_socket_fits_into_is_refused_in_one_line(standalone: Standalone) -> None:
    standalone.run_dir = standalone.folder / ("deep" * 30)
    standalone.run_dir.mkdir()
    assert standalone.start("simd").wait(60) == 2
    said = standalone.said("simd")
    assert said.startswith("hftd: control socket ipc://") and said.count("\n") == 1
    assert "XDG_RUNTIME_DIR" in said


def test_a_frame_that_does_not_decode_is_ignored_and_the_next_is_answered() -> None:
    me = identity.myself("simd-1")
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        agent = StandaloneAgent(f"ipc://{folder}/agent", "simd", "0.1.0", me, {}, {}, None, Log())
        agent.start()
        daemon = AgentLink(f"ipc://{folder}/agent", me)
        assert daemon.socket is not None
        try:
            assert daemon.socket.poll(30_000, zmq.POLLOUT)
            daemon.socket.send(b"\xff")
            assert daemon.hello("simd", "0.1.0", {})
            assert daemon.socket.poll(30_000)
            assert isinstance(control.decode_from_agent(daemon.socket.recv()), control.Welcome)
        finally:
            daemon.socket.close(0)
            agent.stop()
