"""The doors of a floor, tried as another local user, as a web page would, and by a second copy of what is
behind them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from controlplane import store
from controlplane.errors import InUse
from controlplane.floor import etcd
from controlplane.floor.child import Child
from controlplane.floor.folders import Folders
from tests.support import floors

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
KNOCK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    try:
        sock.connect(sys.argv[1])
        print("open")
    except OSError as exc:
        print(exc.strerror)
"""


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as up:
        yield up


def endpoint(floor: floors.Floor) -> Path:
    [found] = floor.parent()["store"]["endpoints"]
    assert found.startswith("unix:/"), found
    return Path(found.removeprefix("unix:"))


def test_the_store_listens_on_no_port_and_its_socket_is_in_a_folder_of_its_user_alone(
    floor: floors.Floor,
) -> None:
    pid = floor.parent()["processes"]["etcd"]["pid"]
    assert not [c for c in psutil.net_connections("inet") if c.pid == pid]
    folder = endpoint(floor).parent
    assert folder == floor.run_dir() and folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.geteuid()


def test_what_the_floor_keeps_is_its_users_alone(floor: floors.Floor) -> None:
    kept = [floor.site_dir, *floor.site_dir.rglob("*"), floor.run_dir(), *floor.run_dir().rglob("*")]
    assert len(kept) > 50
    assert not [path for path in kept if path.lstat().st_mode & 0o077 and not path.is_symlink()]


def test_another_user_cannot_connect_to_the_store(floor: floors.Floor) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    knock = [sys.executable, "-I", "-c", KNOCK, str(endpoint(floor))]
    assert subprocess.check_output(knock, text=True).strip() == "open", "its own user can"
    tried = [*NOBODY, "/usr/bin/python3", *knock[1:]]
    assert subprocess.check_output(tried, text=True).strip() == "Permission denied"


TRY_ALL = """
import json, os, socket, stat, sys
found = {}
for path in json.load(sys.stdin):
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        found[path] = "open"
    except OSError as exc:
        found[path] = exc.strerror
print(json.dumps(found))
"""


def test_another_user_opens_no_file_page_or_socket_of_the_floor(floor: floors.Floor) -> None:
    """Agents, keepers, controller, daemons and what they keep: each is tried."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    places = [floor.site_dir, floor.run_dir()]
    kept = [str(path) for place in places for path in place.rglob("*") if not path.is_dir()]
    kinds = {Path(path).suffix for path in kept}
    assert {".sock", ".bus", ".alive", ".lease", ".key", ".log"} <= kinds, kinds
    tried = [*NOBODY, "/usr/bin/python3", "-I", "-c", TRY_ALL]
    done = subprocess.run(tried, input=json.dumps(kept), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) == len(kept) and set(found.values()) == {"Permission denied"}


def test_another_user_changes_nothing_over_tcp(floor: floors.Floor) -> None:
    """What any local user reaches are the checks: every POST is refused, and what is secret is not there."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    status, pids = floor.status(), floor.pids()
    urls = [status["controller"]["url"], *(host["url"] for host in status["hosts"])]
    posts = (
        "v1/shutdown",
        "v1/site/failover",
        "v1/fences/omsd/reset",
        "v1/site/fences/omsd/reset",
        "v1/site/breakers/execd.simd",
        "v1/site/config/omsd",
        "v1/site/keys/kill_switch",
    )
    gets = (
        "v1/site/status",
        "api/v1/status",
        "v1/site/events",
        "v1/site/config/omsd",
        "v1/site/keys",
        "v1/site/ask/omsd/orders",
        "v1/logs/omsd-alpha-1",
    )
    for url in urls:
        for path in posts:
            assert code(url, path, "-X", "POST", "-d", "{}") in ("404", "405"), (url, path)
        for path in gets:
            assert code(url, path) in ("403", "404"), (url, path)
        assert code(url, "live") == "200"
    assert floor.pids() == pids and floor.healthy()


def code(url: str, path: str, *more: str) -> str:
    """The answer's status code, to curl as another user."""
    curl = [
        *NOBODY,
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        *more,
        f"{url.rstrip('/')}/{path}",
    ]
    return subprocess.check_output(curl, text=True)


def test_what_speaks_http_to_the_store_reads_no_key(floor: floors.Floor) -> None:
    """The gateway that turns JSON into calls is off: no page, proxy or curl gets a key."""
    curl = ["curl", "-s", "--unix-socket", str(endpoint(floor)), "http://store"]
    body = '{"key":"aGZ0Lw==","range_end":"aGZ0MA=="}'
    read = subprocess.check_output([*curl[:-1], "-d", body, f"{curl[-1]}/v3/kv/range"], text=True)
    assert read.strip() == "404 page not found"
    assert '"health":"true"' in subprocess.check_output([*curl[:-1], f"{curl[-1]}/health"], text=True)


def test_status_and_the_standalone_client_know_the_store_by_its_socket(floor: floors.Floor) -> None:
    found = floor.status()["store"]
    assert found["endpoints"] == [f"unix:{endpoint(floor)}"] and found["healthy"]
    url = Folders(floor.site_dir).store_url()
    assert url == f"etcd://unix:{endpoint(floor)}"

    async def keys() -> int:
        client = store.connect(url)
        try:
            return len((await client.range("hft/lab/services/")).entries)
        finally:
            await client.close()

    assert asyncio.run(keys()) == 10


def test_a_second_store_on_the_same_data_is_not_started_and_the_first_stays_reachable(
    floor: floors.Floor, tmp_path: Path
) -> None:
    version = floor.parent()["store"]["version"]
    before, pid = endpoint(floor).stat().st_ino, floor.parent()["processes"]["etcd"]["pid"]
    said: list[str] = []
    own = etcd.Etcd()
    launch = own.launch(own.chosen(os.readlink(f"/proc/{pid}/exe")), floor.site_dir, floor.run_dir())  # noqa: PTH115
    second = Child(
        "etcd",
        launch.command,
        tmp_path / "log",
        os.environ,
        said.append,
        lambda: None,
        launch.folder,
        held_by=lambda: own.holder(version, floor.site_dir),
    )
    with pytest.raises(InUse, match=f"served by another process, pid {pid}; end that one first"):
        asyncio.run(second.start_when_free(0.5))
    assert said == [f"etcd: its data is served by pid {pid}; it is started when that one has ended"]
    assert second.process is None and endpoint(floor).stat().st_ino == before and floor.healthy()


def test_a_store_that_is_killed_comes_back_at_its_socket(floor: floors.Floor) -> None:
    pid = floor.parent()["processes"]["etcd"]["pid"]
    where = endpoint(floor)
    floor.kill(pid)
    floors.wait_for("another store", lambda: floor.parent()["processes"]["etcd"]["pid"] != pid)
    floors.wait_for("a healthy floor", floor.healthy)
    assert endpoint(floor) == where


def test_an_adopted_store_is_started_again_without_a_command_from_a_file(floor: floors.Floor) -> None:
    floord = floor.parent()["floord"]["pid"]
    floor.kill(floord)
    floors.wait_for("it is gone", lambda: not Path(f"/proc/{floord}").exists())
    floor.up()
    assert floor.parent()["floord"]["pid"] != floord and "command" not in floor.parent()["store"]
    store_pid = floor.parent()["processes"]["etcd"]["pid"]
    floor.kill(store_pid)
    floors.wait_for("another store", lambda: floor.parent()["processes"]["etcd"]["pid"] != store_pid)
    floors.wait_for("a healthy floor", floor.healthy)
