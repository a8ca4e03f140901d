"""A store that will not have us, or is none: a wrong token or password, a wrong authority, another HTTP
server at the address, a Consul that is too old. Each is one line with an exit code, and nothing is changed.
"""

from __future__ import annotations

import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from controlplane import store
from controlplane.errors import HftctlError
from controlplane.settings import StoreSettings
from controlplane.store import Compare, Put
from tests.support import guarded_stores, real_stores, servers

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

UNREACHABLE = 3
"""Exit code (design.md section 9)."""


async def _refused(url: str, settings: StoreSettings, wanted: str) -> None:
    """Every call, and health, says so in one line."""
    client = store.connect(url, settings)
    try:
        for call in (
            client.get("hft/a"),
            client.range("hft/"),
            client.put("hft/a", b"1"),
            client.txn([Compare("hft/a", 0)], [Put("hft/a", b"1")]),
            client.lease(5.0),
        ):
            with pytest.raises(HftctlError) as caught:
                await call
            assert "\n" not in str(caught.value) and str(caught.value).startswith("store "), caught.value
        with pytest.raises(HftctlError, match=wanted) as caught:
            await client.get("hft/a")
        assert caught.value.exit_code == UNREACHABLE
        health = await client.health()
        assert not health.healthy and health.reason and "\n" not in health.reason, health
    finally:
        await client.close()


async def test_a_wrong_token_or_password_is_refused_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    with guarded_stores.with_identities(kind, tmp_path) as guarded:
        good = guarded.settings
        guarded.tell(str(uuid.uuid4()))
        wanted = "authentication failed" if kind == "etcd" else "ACL not found|[Pp]ermission denied"
        await _refused(guarded.real.url(), good, wanted)
        wanted = "user name is empty" if kind == "etcd" else "ermission denied|wants a token"
        await _refused(guarded.real.url(), StoreSettings(), wanted)
        guarded.tell(guarded.made())
        client = guarded.real.connect(settings=good)
        assert not (await client.range("hft/")).entries
        await client.close()


async def test_a_wrong_authority_is_refused_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    with guarded_stores.with_certificates(kind, tmp_path) as secured:
        stranger = tmp_path / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(stranger)
        good = secured.settings
        wrong = StoreSettings(ca_file=stranger, cert_file=good.cert_file, key_file=good.key_file)
        wanted = "CERTIFICATE_VERIFY_FAILED" if kind == "etcd" else "its certificate is not believed"
        await _refused(secured.url, wrong, wanted)
        client = store.connect(secured.url, good)
        assert not (await client.range("hft/")).entries
        await client.close()


@contextmanager
def _other_http(answers: dict[str, tuple[int, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """An HTTP server of another kind, and what it was asked. `answers`: by the path's beginning."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = next((answer for path, answer in answers.items() if self.path.startswith(path)), None)
            status, body = found or (404, b"404 page not found\n")
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if self.path.startswith("/v1/kv/") and "/v1/agent/self" in answers:
                self.send_header("X-Consul-Index", "7")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = _answer

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("answers", [{}, {"/": (200, b"<html>welcome</html>")}, {"/": (200, b"[]")}])
async def test_an_http_server_of_another_kind_is_named_and_never_taken_for_an_empty_site(
    kind: str, answers: dict[str, tuple[int, bytes]]
) -> None:
    with _other_http(answers) as (endpoint, asked):
        wanted = "is not Consul" if kind == "consul" else "no connection|Stream|Trying to connect|HTTP"
        await _refused(f"{kind}://{endpoint}", StoreSettings(), wanted)
        assert kind == "etcd" or asked


async def test_the_other_kind_of_store_is_named_and_nothing_is_written_to_it(kind: str) -> None:
    """etcd:// at a Consul, consul:// at an etcd."""
    other = next(each for each in real_stores.KINDS if each != kind)
    with real_stores.running(other) as real:
        wanted = "is not Consul" if kind == "consul" else "no connection|Stream|Trying to connect|HTTP"
        await _refused(f"{kind}://{real.server.endpoint}", StoreSettings(), wanted)
        client = real.connect()
        assert not (await client.range("hft/")).entries and not real.leases()
        await client.close()


async def test_a_consul_that_is_too_old_is_named_with_what_is_wanted() -> None:
    """etcd's versions are looked at before one is started (test_floor_etcd.py); over TCP, 3.4 is fit."""
    old = json.dumps({"Config": {"Version": "1.8.7"}}).encode()
    with _other_http({"/v1/agent/self": (200, old), "/v1/kv/": (404, b"")}) as (endpoint, asked):
        client = store.connect(f"consul://{endpoint}")
        health = await client.health()
        assert not health.healthy and health.version == "1.8.7"
        assert health.reason == (
            "Consul 1.8.7 is too old, need 1.14 or newer: the transactions of older ones are too small"
        )
        assert all(each.startswith("GET ") for each in asked)
        await client.close()


async def test_nobody_at_the_address_is_one_line(kind: str) -> None:
    await _refused(f"{kind}://127.0.0.1:{servers.free_ports(1)[0]}", StoreSettings(), "onnect")
