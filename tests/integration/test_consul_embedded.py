"""The laptop's Consul as hft-floord starts it: its data there after a kill, on other ports too, and no door
but a socket and a token.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from controlplane import store
from controlplane.errors import Denied, InvalidSettings
from controlplane.floor import consul, consul_doors, embedded, folders
from controlplane.http import unix
from controlplane.registry.consul.local_agent import LocalAgent
from controlplane.store.consul import ConsulStore
from tests.support import checks, consul_servers, dns

NOBODY = 65534


@pytest.fixture(scope="module")
def choice() -> embedded.Choice:
    return consul.choose({"HFT_CONSUL": str(consul_servers.consul())})


@contextmanager
def started(choice: embedded.Choice, site_dir: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a running one, as floor.json says it, and its process; killed at the end."""
    run_dir = site_dir / "run"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    launch = consul.Consul().launch(choice, site_dir, run_dir)
    said = {"kind": "consul", "endpoints": list(launch.endpoints), "token_file": str(launch.token_file)}
    url = folders.url_of(said)
    with (site_dir / "consul.log").open("ab") as log:
        process = subprocess.Popen(launch.command, stdout=log, stderr=log, cwd=launch.folder)
    try:
        asyncio.run(embedded.wait_ready(url, lambda: process.poll() is not None, timeout_s=60))
        yield url, process
    finally:
        process.kill()
        process.wait(10)


def write(url: str, value: bytes) -> None:
    async def put() -> None:
        client = store.connect(url)
        assert isinstance(await client.put("hft/a", value), store.Committed)
        await client.close()

    asyncio.run(put())


def read(url: str) -> bytes | None:
    async def get() -> bytes | None:
        client = store.connect(url)
        entry = await client.get("hft/a")
        await client.close()
        return entry.value if entry else None

    return asyncio.run(get())


def ports(site_dir: Path) -> dict[str, int]:
    found = json.loads((site_dir / "consul" / "config.json").read_text())["ports"]
    return {name: found[name] for name in ("server", "serf_lan")}


def register(url: str, service: dict[str, object]) -> None:
    async def put() -> None:
        client = store.connect(url)
        assert isinstance(client, ConsulStore)
        await LocalAgent(client.agent).register(service, None)
        await client.close()

    asyncio.run(put())


def asked(port: int, target: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()


def test_dns_and_ui_are_open_on_loopback_when_asked_for_and_show_no_key(
    choice: embedded.Choice, tmp_path: Path
) -> None:
    dns_port, ui_port = checks.free_ports(2)
    consul.Consul().prepare(choice, tmp_path)
    consul_doors.write(tmp_path / "consul", consul_doors.Doors(dns_port, ui_port))
    with started(choice, tmp_path) as (url, process):
        asyncio.run(consul.Consul().ready(url, tmp_path))
        register(url, {"ID": "vendor-1", "Name": "vendor", "Address": "127.0.0.1", "Port": 99})
        write(url, b"1")
        deadline_s = time.monotonic() + 20
        while [each.port for each in dns.service(dns_port, "vendor.service.consul")] != [99]:
            assert time.monotonic() < deadline_s, "DNS does not name it"
            time.sleep(0.05)
        status, page = asked(ui_port, "/ui/")
        assert status == 200 and b"Consul" in page
        # What the doors give without the token: no key, no list of services, nothing to change.
        assert asked(ui_port, "/v1/kv/hft/a")[0] == 403
        assert asked(ui_port, "/v1/acl/tokens")[0] == 403
        if tuple(map(int, choice.version.split("."))) >= (1, 18):  # before, DNS had no token of its own
            assert asked(ui_port, "/v1/catalog/services")[1].strip() == b"{}"
        listening = [
            each.laddr
            for each in psutil.Process(process.pid).net_connections("tcp")
            if each.status == "LISTEN"
        ]
        assert {each.port for each in listening} == {*ports(tmp_path).values(), dns_port, ui_port}
        assert {each.ip for each in listening} == {"127.0.0.1"}
    with started(choice, tmp_path) as (url, _):  # a token of its own again
        asyncio.run(consul.Consul().ready(url, tmp_path))
        deadline_s = time.monotonic() + 20
        while not dns.service(dns_port, "vendor.service.consul"):
            assert time.monotonic() < deadline_s, "DNS does not name it after a start"
            time.sleep(0.05)


def test_data_outlives_a_kill_and_a_start_on_other_ports(choice: embedded.Choice, tmp_path: Path) -> None:
    with started(choice, tmp_path) as (url, _):
        write(url, b"1")
        first = ports(tmp_path)
    with started(choice, tmp_path) as (url, _):
        assert read(url) == b"1" and ports(tmp_path) == first, "the same ports where they are free"
        write(url, b"2")
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", first["server"]))
        stranger.listen()
        with started(choice, tmp_path) as (url, _):
            assert read(url) == b"2" and ports(tmp_path)["server"] != first["server"]
            write(url, b"3")
            assert read(url) == b"3"


def test_its_holder_is_named_while_it_runs(choice: embedded.Choice, tmp_path: Path) -> None:
    own = consul.Consul()
    assert own.holder(choice.version, tmp_path) == ""
    with started(choice, tmp_path) as (_, process):
        assert own.holder(choice.version, tmp_path) == f"pid {process.pid}"
    assert own.holder(choice.version, tmp_path) == ""


def test_nobody_gets_in_without_the_token_or_past_the_socket(choice: embedded.Choice, tmp_path: Path) -> None:
    with started(choice, tmp_path) as (url, process):
        endpoint = url.partition("://")[2].partition("?")[0]
        path = Path(endpoint.removeprefix("unix:"))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for name in ("token", "gossip.key", "config.json", "server.key"):
            assert stat.S_IMODE((tmp_path / "consul" / name).stat().st_mode) == 0o600, name
        write(url, b"1")
        # It has the socket and not the token:
        for target in ("/v1/kv/hft/a", "/v1/agent/self", "/v1/acl/tokens"):
            answer = unix.request(path, "GET", target)
            assert answer.status == 403, (target, answer)
        assert not unix.request(path, "GET", "/v1/kv/hft?recurse").body, "a list leaves out what is not ours"
        assert unix.request(path, "PUT", "/v1/kv/hft/a", b"forged").status == 403

        async def forged() -> None:
            client = store.connect(url.partition("?")[0])
            with pytest.raises(Denied):
                await client.put("hft/a", b"forged")
            with pytest.raises(Denied, match="wants a token"):
                await client.range("hft/")
            await client.close()

        asyncio.run(forged())
        # The two ports that Consul cannot do without: no word without the floor's certificate or gossip key.
        for port in ports(tmp_path).values():
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                stranger.sendall(b"\x00GET /v1/kv/hft/a HTTP/1.0\r\n\r\n")
                stranger.shutdown(socket.SHUT_WR)
                stranger.settimeout(20)
                said = b""
                while piece := stranger.recv(4096):
                    said += piece
                assert b"hft" not in said and b"HTTP/1" not in said
        listening = [
            each.laddr.port
            for each in psutil.Process(process.pid).net_connections("tcp")
            if each.status == "LISTEN"
        ]
        assert set(listening) == set(ports(tmp_path).values())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_another_user_reaches_neither_its_socket_nor_its_files(
    choice: embedded.Choice, tmp_path: Path
) -> None:
    with started(choice, tmp_path) as (url, _):
        path = url.partition("unix:")[2].partition("?")[0]
        code = (
            "import socket, sys\n"
            f"s = socket.socket(socket.AF_UNIX)\n"
            f"try: s.connect({path!r})\n"
            "except PermissionError: pass\n"
            "else: sys.exit('connected')\n"
            f"try: open({str(tmp_path / 'consul' / 'token')!r}).read()\n"
            "except PermissionError: pass\n"
            "else: sys.exit('read')\n"
            f"for port in {sorted(ports(tmp_path).values())!r}:\n"
            "    s = socket.create_connection(('127.0.0.1', port), timeout=10)\n"
            "    s.settimeout(20)\n"
            "    s.sendall(b'\\x00GET /v1/kv/hft/a HTTP/1.0\\r\\n\\r\\n')\n"
            "    s.shutdown(socket.SHUT_WR)\n"
            "    said = b''\n"
            "    while piece := s.recv(4096): said += piece\n"
            "    if b'hft' in said or b'HTTP/1' in said: sys.exit('answered')\n"
        )
        for folder in (tmp_path, *tmp_path.parents):
            if folder != Path("/") and folder.stat().st_uid == os.geteuid():
                folder.chmod(folder.stat().st_mode | 0o055)
        (tmp_path / "run").chmod(0o755)  # the socket's own mode alone
        done = subprocess.run(
            ["python3", "-c", code], user=NOBODY, group=NOBODY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_what_is_no_consul_or_too_old_is_refused_in_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "consul"
    for said, wanted in (
        ("echo Consul v1.8.7", "1.8.7 is too old, need 1.14 or newer"),
        ("echo hello", 'reports "hello"'),
        ("exit 3", "cannot be run"),
    ):
        fake.write_text(f"#!/bin/sh\n{said}\n")
        fake.chmod(0o755)
        with pytest.raises(InvalidSettings, match=wanted) as caught:
            consul.choose({"HFT_CONSUL": str(fake)})
        assert "\n" not in str(caught.value)
    with pytest.raises(InvalidSettings, match=r"HFT_CONSUL, or `make consul` builds one \(needs Go\)"):
        consul.choose({"PATH": str(tmp_path / "none"), "XDG_CACHE_HOME": str(tmp_path / "none")})
