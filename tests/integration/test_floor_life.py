"""A small floor (the venue, its market data, risk) brought up, changed, orphaned, adopted and taken down by
the real hftctl.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import store
from controlplane.floor import down, processes
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.host import locks
from controlplane.store import Keys
from tests.support import floors

SERVICES = """\
services:
  - name: simd
    daemon: simd
    mode: singleton
    hosts: [alpha]
  - name: marketd
    daemon: marketd
    mode: singleton
    hosts: [alpha]
  - name: bookd
    daemon: bookd
    mode: singleton
    hosts: [beta]
  - name: positiond
    daemon: positiond
    mode: singleton
    hosts: [beta]
  - name: riskd
    daemon: riskd
    mode: active_standby
    hosts: [beta]
    settings:
      messages_per_s: 200
"""
PATIENCE_S = 60.0


class Bench:
    """One site folder and the hftctl that works on it."""

    def __init__(self, folder: Path) -> None:
        self.folders = Folders(folder / "floor")
        self.services = folder / "services.yml"
        self.services.write_text(SERVICES)

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "controlplane.cli.main",
            *arguments,
            "--site-dir",
            str(self.folders.site_dir),
        ]

    def hftctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=PATIENCE_S * 2
        )

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.hftctl("up", "--detach", "--services", str(self.services), *arguments)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.hftctl("status", "-o", "json").stdout)
        return found

    def pids(self) -> dict[str, int]:
        return {i["id"]: i["pid"] for service in self.status()["services"] for i in service["instances"]}

    def causes(self, service: str) -> list[str]:
        """Of its leaders, the first one first."""
        rows = json.loads(self.hftctl("history", service, "-o", "json").stdout)
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        return [row["cause"] for row in rows]

    def agent_port(self, host: str) -> int:
        (url,) = [found["url"] for found in self.status()["hosts"] if found["name"] == host]
        return int(url.rpartition(":")[2])

    def floor(self) -> dict[str, Any]:
        return self.folders.running() or {}

    def nothing_is_left(self) -> None:
        assert processes.recorded(self.folders) == [] and processes.marked(self.folders) == []
        assert not self.folders.run_dir_wanted().exists() and not self.folders.floor_json.exists()


@contextlib.asynccontextmanager
async def registrations(bench: Bench, service: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Those of a service, by instance, at each change of them in the floor's own etcd."""
    client = store.connect(f"etcd://{bench.status()['store']['endpoints'][0]}")
    try:
        async with contextlib.aclosing(client.watch(Keys("lab").registration(service, ""))) as watch:
            yield (
                {key.rpartition("/")[2]: json.loads(entry.value) for key, entry in snapshot.entries.items()}
                async for snapshot in watch
            )
    finally:
        await client.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    try:
        yield made
    finally:
        down.take_down(made.folders, timeout_s=20)


def test_up_is_healthy_a_second_up_changes_nothing_down_leaves_nothing_and_is_no_loss(bench: Bench) -> None:
    first = bench.up()
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("store: etcd "), "which etcd was taken is said in one line"
    pids = bench.pids()

    again = bench.hftctl("up", "--detach")  # bare: keeps the file of the running floor
    assert again.returncode == 0 and "already up, nothing changed" in again.stdout
    assert bench.pids() == pids

    assert bench.hftctl("down").returncode == 0
    bench.nothing_is_left()
    assert bench.folders.services.read_text() == SERVICES, "data and the applied file are kept"
    second = bench.hftctl("down")
    assert second.returncode == 0 and second.stdout.count("\n") == 1

    assert bench.up().returncode == 0
    assert bench.causes("riskd") == ["first", "released"], "it was asked to end, it did not die"


def test_a_changed_file_is_shown_and_restarts_only_what_it_changes(bench: Bench) -> None:
    assert bench.up().returncode == 0
    before = bench.pids()
    bench.services.write_text(SERVICES.replace("messages_per_s: 200", "messages_per_s: 300"))
    changed = bench.hftctl("up", "--detach", "--seed", "7")
    assert changed.returncode == 0, changed.stderr
    assert (
        "~ riskd.settings.messages_per_s: 200 -> 300" in changed.stdout
        and "~ simd.settings.seed: 1 -> 7" in changed.stdout
    )
    after = bench.pids()
    assert {name for name in before if before[name] != after[name]} == {"simd-alpha-1"}
    assert bench.causes("riskd") == ["first"], "its rate changes while it runs"
    assert bench.hftctl("up", "--detach").stdout.startswith("already up"), "a bare up keeps the seed"

    bench.services.write_text(SERVICES.replace("daemon: bookd", "daemon: bokd"))
    refused = bench.hftctl("up", "--detach")
    assert refused.returncode == 2 and f"{bench.services}:11: services[2].daemon" in refused.stderr
    assert bench.pids() == after


def test_the_registration_of_an_instance_that_dies_disappears_and_comes_back(bench: Bench) -> None:
    assert bench.up().returncode == 0
    before = bench.pids()["positiond-beta-1"]

    async def pids() -> list[int | None]:
        """Of its registrations as they change (none: None), until it is another process's."""
        seen: list[int | None] = []
        async with registrations(bench, "positiond") as watch:
            async for found in watch:
                row = found.get("positiond-beta-1")
                seen += [row["process"]["pid"] if row else None]
                if seen == [before]:
                    os.kill(before, signal.SIGKILL)
                if seen[-1] not in (None, before):
                    break
        return seen

    found = asyncio.run(asyncio.wait_for(pids(), PATIENCE_S))
    assert None in found, "gone in between"
    assert found[-1] == bench.pids()["positiond-beta-1"]


def test_the_only_member_of_a_group_may_be_moved_to_another_host(bench: Bench) -> None:
    """Its home is no instance any more: the moved one leads after a lease, under the next epoch. And back,
    where its old data is.
    """
    assert bench.up().returncode == 0
    for epoch, host in ((2, "alpha"), (3, "beta")):
        bench.services.write_text(
            SERVICES.replace(
                "mode: active_standby\n    hosts: [beta]", f"mode: active_standby\n    hosts: [{host}]"
            )
        )
        moved = bench.up()
        assert moved.returncode == 0, moved.stdout + moved.stderr
        (riskd,) = [service for service in bench.status()["services"] if service["name"] == "riskd"]
        assert (riskd["leader"], riskd["epoch"]) == (f"riskd-{host}-1", epoch)
        assert [instance["id"] for instance in riskd["instances"]] == [f"riskd-{host}-1"]
    assert bench.causes("riskd") == ["first", "stopped", "stopped"]


def test_after_floords_death_the_floor_goes_on_and_up_adopts_it(bench: Bench) -> None:
    assert bench.up().returncode == 0
    pids, running = bench.pids(), bench.floor()
    os.kill(running["floord"]["pid"], signal.SIGKILL)
    floors.wait_for(
        "the lock goes with its holder", lambda: not site_folders.locked(bench.folders.floor_lock)
    )
    floors.wait_for(
        "an agent says so",
        lambda: any("hft-floord has died" in line for line in bench.status()["reasons"]),
    )
    adopted = bench.hftctl("up", "--detach")
    assert adopted.returncode == 0, adopted.stderr
    assert bench.pids() == pids
    assert bench.floor()["processes"] == running["processes"]
    assert bench.floor()["floord"]["pid"] != running["floord"]["pid"]

    os.kill(bench.floor()["processes"]["etcd"]["pid"], signal.SIGKILL)
    floors.wait_for(
        "an adopted store is restarted",
        lambda: bench.floor()["processes"]["etcd"]["pid"] != running["processes"]["etcd"]["pid"],
    )
    floors.wait_for("healthy again", lambda: bench.hftctl("status").returncode == 0)
    assert bench.pids() == pids


def test_down_works_when_floord_and_the_agents_are_dead(bench: Bench) -> None:
    assert bench.up().returncode == 0
    running = bench.floor()
    for record in (
        running["floord"],
        running["processes"]["agent-alpha"],
        running["processes"]["agent-beta"],
    ):
        os.kill(record["pid"], signal.SIGKILL)
    assert bench.hftctl("down").returncode == 0
    bench.nothing_is_left()


def test_a_floor_whose_machine_was_switched_off_comes_up_again(bench: Bench) -> None:
    assert bench.up().returncode == 0
    for known in sorted(processes.recorded(bench.folders), key=lambda known: known.instance != "floord"):
        processes.send(known, signal.SIGKILL)
    floors.wait_for("all are dead", lambda: not processes.marked(bench.folders))
    assert bench.folders.floor_json.exists() and bench.hftctl("status").returncode == 3
    up = bench.up()
    assert up.returncode == 0, up.stderr


def test_a_port_in_use_is_named_before_anything_starts(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = bench.up("--http-port", str(port))
    assert (
        refused.returncode == 2 and f"127.0.0.1:{port}" in refused.stderr and refused.stderr.count("\n") == 1
    )
    bench.nothing_is_left()


def test_a_health_port_in_use_is_named_before_anything_starts_or_changes(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        named = SERVICES.replace(
            "mode: active_standby\n", f"mode: active_standby\n    health_port: {port}\n", 1
        )
        bench.services.write_text(named)
        refused = bench.up()
        assert (
            refused.returncode == 2
            and f"127.0.0.1:{port}" in refused.stderr
            and "health_port of riskd-beta-1" in refused.stderr
        )
        bench.nothing_is_left()
        bench.services.write_text(SERVICES)
        assert bench.up().returncode == 0
        bench.services.write_text(named)
        assert bench.up().returncode == 2
        assert "health_port" not in bench.folders.services.read_text()
    changed = bench.up()
    assert changed.returncode == 0 and f"~ riskd.health_port: 0 -> {port}" in changed.stdout
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
        assert answer.read() == b"OK"

    async def registered_port() -> int:
        async with registrations(bench, "riskd") as watch:
            async for found in watch:
                if found["riskd-beta-1"]["port"] != bench.agent_port("beta"):
                    return int(found["riskd-beta-1"]["port"])
        raise AssertionError("the watch ended")

    assert asyncio.run(asyncio.wait_for(registered_port(), PATIENCE_S)) == port, (
        "where a check of the registration asks"
    )


def test_a_site_folder_in_use_is_named(bench: Bench) -> None:
    bench.folders.create()
    with locks.take(bench.folders.floor_lock, "not a floor"):
        refused = bench.up()
    assert (
        refused.returncode == 2
        and str(bench.folders.site_dir) in refused.stderr
        and str(os.getpid()) in refused.stderr
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_front_a_signal_takes_the_floor_down(bench: Bench, number: signal.Signals, code: int) -> None:
    front = subprocess.Popen(
        bench.command("up", "--services", str(bench.services)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert front.stdout is not None
        shown = next(
            (line for line in front.stdout if "bookd-beta-1: running" in line), None
        )  # a line a change
        floors.wait_for("healthy", lambda: bench.floor() and bench.hftctl("status").returncode == 0)
        front.send_signal(number)
        said, _ = front.communicate(timeout=PATIENCE_S)
    finally:
        front.kill()
        front.wait()
    assert front.returncode == code
    assert shown and "is down; its data is kept" in said
    bench.nothing_is_left()


def test_an_instance_that_does_not_come_up_is_named_with_its_last_words(bench: Bench) -> None:
    bench.services.write_text(
        SERVICES.replace(
            "hosts: [alpha]\n  - name: bookd",
            "hosts: [alpha]\n    settings: {files: [/nowhere]}\n  - name: bookd",
        )
    )
    failed = bench.up("--timeout", "6")
    assert failed.returncode == 1
    assert "marketd-alpha-1:" in failed.stderr and "the floor stays up" in failed.stderr
    assert bench.hftctl("status").returncode == 1
