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
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import store
from tests.support import floors, servers

TTL_S = 5
CONFIG = """
service: {{name: {daemon}, version: 0.1.0, environment: lab}}
etcd: {{endpoints: ["{endpoint}"], prefix: hft/hand, lease_ttl: {ttl}}}
"""


class Hand:
    """Daemons started by hand, with a folder and an etcd of their own."""

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
def hand(tmp_path: Path, server: servers.Server) -> Iterator[Hand]:
    with tempfile.TemporaryDirectory(prefix="hft-") as run_dir:  # short, as sockets live in it
        made = Hand(tmp_path, Path(run_dir), server)
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


async def registered(hand: Hand) -> dict[str, dict[str, object]]:
    client = store.connect(f"etcd://{hand.server.endpoint}")
    try:
        snapshot = await client.range("hft/hand/services/")
        return {
            key: json.loads(entry.value)
            for key, entry in snapshot.entries.items()
            if not key.endswith("/stranger")
        }
    finally:
        await client.close()


@pytest.mark.anyio
async def test_daemons_by_hand_find_each_other_in_etcd_and_leave_it_when_they_end(hand: Hand) -> None:
    client = store.connect(f"etcd://{hand.server.endpoint}")
    await client.put("hft/hand/services/simd/stranger", b"\xffnot ours")
    await client.close()
    for daemon in ("bookd", "marketd", "simd"):
        hand.start(daemon)
    floors.wait_for(
        "the books follow the market",
        lambda: "market.session" in hand.said("bookd") and " ready" in hand.said("bookd"),
        pause_s=0.05,
    )

    found = await registered(hand)
    for daemon, process in hand.running.items():
        row = found[f"hft/hand/services/{daemon}/{daemon}-{process.pid}"]
        assert (row["service"], row["instance"], row["version"]) == (
            daemon,
            f"{daemon}-{process.pid}",
            "0.1.0",
        )
        assert row["address"] and "port" in row and isinstance(row["timestamp_ns"], int) and row["endpoints"]

    hand.running["marketd"].send_signal(signal.SIGTERM)
    assert hand.running["marketd"].wait(30) == 0
    assert "services/marketd/" not in "".join(await registered(hand)), (
        "withdrawn at once, not left to its lease"
    )
    hand.running["simd"].send_signal(signal.SIGINT)
    assert hand.running["simd"].wait(30) in (0, 130)
    assert "Traceback" not in hand.said("marketd") + hand.said("simd")


def test_the_log_goes_where_the_file_says(hand: Hand) -> None:
    log = hand.folder / "simd.log"
    hand.start("simd", f"logging: {{level: info, file: {log}}}")
    floors.wait_for(
        "a line in the log", lambda: log.exists() and "started pid=" in log.read_text(), pause_s=0.05
    )
    floors.wait_for(
        "registered", lambda: "registered key='hft/hand/services/simd/" in log.read_text(), pause_s=0.05
    )
    assert hand.said("simd") == ""


def test_below_its_level_nothing_is_logged(hand: Hand) -> None:
    hand.start("simd", "logging: {level: error}")
    floors.wait_for("registered", lambda: asyncio.run(registered(hand)), pause_s=0.05)
    hand.server.kill()
    floors.wait_for("an error", lambda: "registration.failed" in hand.said("simd"), pause_s=0.05)
    assert all(" registration.failed " in line for line in hand.said("simd").splitlines())


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
def test_a_file_that_does_not_fit_is_refused_in_one_line(hand: Hand, more: str, wanted: str) -> None:
    assert hand.start("simd", more).wait(60) == 2
    said = hand.said("simd")
    assert said.startswith("hftd: ") and said.count("\n") == 1 and wanted in said and "simd.yml" in said
