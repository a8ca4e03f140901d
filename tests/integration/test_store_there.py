"""Floors on a store that is there already: nothing is embedded, the site is one floor's, and whatever is
wrong with the store is one line, an exit code and nothing changed.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from controlplane import store
from tests.support import floors, secured_stores
from tests.support.floors import wait_for
from tests.support.secured_stores import Secured


@pytest.fixture(scope="module", params=["etcd", "consul"])
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured_stores.secured(request.param, tmp_path_factory.mktemp("store")) as one:
        yield one


def content(there: Secured) -> dict[str, tuple[int, bytes]]:
    """What is kept in it, with revisions: two looks are equal when nothing was written."""

    async def ask() -> dict[str, tuple[int, bytes]]:
        client = store.connect(there.url)
        try:
            found = await client.range("hft/")
        finally:
            await client.close()
        # Without what an earlier test's processes leave on leases, which end by themselves.
        leased = ("/hosts/", "/services/", "/controller")
        kept = (entry for entry in found.entries.values() if not any(part in entry.key for part in leased))
        return {entry.key: (entry.revision, entry.value) for entry in kept}

    return asyncio.run(ask())


def refused(floor: floors.Floor, *words: str) -> tuple[int, str]:
    """Exit code and the one line of an `up` that starts nothing."""
    done = floor.run("up", "--detach", *words)
    assert done.returncode != 0 and not floor.parent(), done.stdout
    assert not floors.processes_of(floor.site_dir)
    line = done.stderr.strip()
    assert "\n" not in line and "Traceback" not in line, line
    return done.returncode, line


def test_a_floor_lives_on_it_and_leaves_it_as_it_was_found(there: Secured) -> None:
    with floors.floor(bring_up=False) as floor, floors.floor(bring_up=False) as other:
        done = floor.run("up", "--detach", *there.words(), timeout_s=180)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"store: {there.kind}://{there.endpoint}, which is not this floor's own" in done.stdout
        assert not {"etcd", "consul"} & set(floor.parent()["processes"]), "nothing is embedded"
        status = floor.status()
        assert (status["healthy"], status["store"]["kind"]) == (True, there.kind)
        assert not [alarm for alarm in status["alarms"] if alarm["id"].startswith("store.")]
        omsd = floor.service("omsd")
        moved = floor.json("failover", "omsd", "--reason", "test")
        assert (moved["outcome"], moved["from"]) == ("succeeded", omsd["leader"])
        wait_for("healthy again", floor.healthy)
        assert floor.run("up", "--detach").returncode == 0, "a bare up finds its store again"

        # Another floor of the same site name: refused, and nothing is changed.
        before = content(there)
        code, line = refused(other, *there.words())
        assert code == 2 and 'site "lab": this store has it already' in line and "--join" in line
        code, line = refused(other, *there.words(), "--join")
        assert code == 2 and "has an agent already" in line
        specs = {
            key: value for key, value in content(there).items() if "/specs/" in key or key.endswith("/site")
        }
        assert specs == {key: before[key] for key in specs}

        floor.run("down")
        assert not floors.processes_of(floor.site_dir)
        assert "hft/lab/specs/omsd" in content(there)
        assert there.server.process is not None and there.server.process.poll() is None, (
            "it is not ours to end"
        )

        # The other one takes the site over; by the environment this time.
        other.environment |= there.environment
        code, line = refused(other)
        assert code == 2 and "--join" in line
        done = other.run("up", "--detach", "--join", timeout_s=180)
        assert done.returncode == 0, done.stdout + done.stderr
        assert other.service("omsd")["epoch"] > omsd["epoch"], "and counts on from its epochs"
        other.run("down")


def test_the_last_store_of_a_site_folder_is_used_again(there: Secured) -> None:
    """In another one are other services and other epochs."""
    with floors.floor(bring_up=False) as floor:
        site = ["--site", "again"]
        services = Path("inventory/lab/services.yml").resolve()
        words = [*site, "--services", str(services)]
        assert floor.run("up", "--detach", *words, *there.words(), timeout_s=180).returncode == 0
        other = "consul" if there.kind == "etcd" else "etcd"
        done = floor.run("up", "--detach", *site, "--store", other)
        assert done.returncode == 2 and f"its floor runs with {there.kind}" in done.stderr
        floor.run("down")
        done = floor.run("up", "--detach", *words, timeout_s=180)
        assert done.returncode == 0 and f"store: {there.kind}://{there.endpoint}" in done.stdout
        floor.run("down")


def test_what_is_wrong_with_the_files_is_said_by_name(there: Secured, tmp_path: Path) -> None:
    before = content(there)
    empty, open_to_all, missing = tmp_path / "empty", tmp_path / "open", tmp_path / "missing"
    empty.write_bytes(b"")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    open_to_all.write_text("x")
    open_to_all.chmod(0o644)
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    with floors.floor(bring_up=False) as floor:
        for words, code, said in (
            (there.words(key=missing), 2, f"{missing}: found No such file or directory"),
            (there.words(key=fifo), 2, f"{fifo}: found not a regular file"),
            (there.words(ca=empty), 2, f"{empty}: found nothing in it"),
            (there.words(key=open_to_all), 2, "found mode 0644, which every user of this machine may read"),
            (there.words(cert=tmp_path), 2, "found Is a directory"),
            (there.words(ca=stranger), 3, there.endpoint),
            (["--store-token", str(stranger)], 2, "found no --store-endpoints beside it"),
            (["--store-endpoints", "nowhere"], 2, 'store endpoint "nowhere": wanted HOST:PORT'),
            (["--store-endpoints", "redis://127.0.0.1:1"], 2, 'found endpoints of "redis"'),
            (["--store-endpoints", "10.0.0.1:2379"], 2, "plain text to another machine"),
        ):
            found, line = refused(floor, *words)
            assert found == code and said in line, line
    assert content(there) == before


class _Other(http.server.BaseHTTPRequestHandler):
    """Some other program's HTTP, or a Consul of long ago."""

    version = ""

    def do_GET(self) -> None:
        body = json.dumps({"Config": {"Version": self.version}}).encode() if self.version else b"<html>"
        self.send_response(200 if self.version and "agent/self" in self.path else 404)
        self.send_header("Content-Length", str(len(body)))
        if self.version:
            self.send_header("X-Consul-Index", "1")
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served(version: str) -> Iterator[str]:
    handler = type("Handler", (_Other,), {"version": version})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_an_endpoint_that_is_none_and_a_store_that_is_too_old_are_refused(tmp_path: Path) -> None:
    with floors.floor(bring_up=False) as floor, socket.create_server(("127.0.0.1", 0)) as silent:
        with served("1.8.7") as old:
            code, line = refused(floor, "--store-endpoints", f"consul://{old}")
            assert code == 2 and "Consul 1.8.7 is too old, need 1.14 or newer" in line
        with served("") as other:
            code, line = refused(floor, "--store-endpoints", f"consul://{other}")
            assert code == 3 and other in line and "not Consul" in line, line
            code, line = refused(floor, "--store-endpoints", f"etcd://{other}")
            assert code == 3 and other in line, line
        port = silent.getsockname()[1]
        for kind in ("etcd", "consul"):
            code, line = refused(floor, "--store-endpoints", f"{kind}://127.0.0.1:{port}")
            assert code == 3 and f"127.0.0.1:{port}" in line and "nothing was started" in line, line


def test_a_wrong_token_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with secured_stores.secured("consul", tmp_path) as there, floors.floor(bring_up=False) as floor:
        wrong = tmp_path / "wrong"
        wrong.write_text("f00dfeed-0000-4000-8000-000000000000\n")
        wrong.chmod(0o600)
        code, line = refused(floor, *there.words(token=wrong))
        assert code == 3 and "ACL not found" in line
        none = [word for word in there.words() if word not in ("--store-token", str(tmp_path / "token"))]
        code, line = refused(floor, *none)
        assert code == 3 and "ermission denied" in line
        assert not content(there)


def test_a_machine_without_a_floor_reads_the_status_out_of_the_store(there: Secured) -> None:
    with floors.floor(bring_up=False) as floor, floors.floor(bring_up=False) as elsewhere:
        done = elsewhere.run("status")
        assert done.returncode == 3 and "no floor runs" in done.stderr
        elsewhere.environment |= there.environment
        done = elsewhere.run("status", "--site", "nowhere")
        assert done.returncode == 3 and 'there is no site "nowhere" in it' in done.stderr
        words = ["--site", "read", "--services", str(Path("inventory/lab/services.yml").resolve())]
        assert floor.run("up", "--detach", *words, *there.words(), timeout_s=180).returncode == 0
        found = elsewhere.json("status", "--site", "read")
        assert found["healthy"] and found["store"]["kind"] == there.kind
        assert {each["name"] for each in found["services"]} == {s["name"] for s in floor.status()["services"]}
        floor.run("down")
        done = elsewhere.run("status", "--site", "read")
        assert done.returncode == 1 and "unhealthy" in done.stdout
