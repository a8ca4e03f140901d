"""A web page in a real browser, on the machine that the floor runs on: it reads nothing and changes nothing.

Two pages: one of another origin that asks every door by its address, and one that a name of its own, rebound
to this machine, makes the floor's origin (DNS rebinding).
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.support import floors

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessForNavigations",
    "--virtual-time-budget=20000",
    "--host-resolver-rules=MAP evil.test 127.0.0.1",
]
"""Checks of the browser that keep pages off loopback are switched off: our doors must not need them."""
PAGE = """<!doctype html><title>attack</title><pre id=found>not run</pre><script>
async function attempt(url, options) {
  try {
    const answer = await fetch(url, options);
    return [answer.type, answer.status, (await answer.text()).slice(0, 200)];
  } catch (error) { return ["failed", 0, String(error)]; }
}
(async () => {
  const found = {};
  for (const [name, url, options] of DOORS) found[name] = await attempt(url, options);
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""
pytestmark = pytest.mark.timeout(400)
"""Browsers take long to start on a busy machine."""


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as up:
        yield up


class Handler(http.server.BaseHTTPRequestHandler):
    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def browse(url: str, profile: Path) -> str:
    """The document once its scripts have ended."""
    if CHROMIUM is None:
        pytest.skip("no Chromium (apt install chromium)")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
        env={**os.environ, "HOME": str(profile)},
    )
    return done.stdout


def attack(
    doors: list[tuple[str, str, dict[str, Any]]], profile: Path, host: str = "127.0.0.1"
) -> dict[str, Any]:
    """What a page found that was loaded from a server of its own."""

    class Page(Handler):
        page = PAGE.replace("DOORS", json.dumps(doors)).encode()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            document = browse(f"http://{host}:{server.server_address[1]}/", profile)
        finally:
            server.shutdown()
    text = re.search(r"<pre id=\"found\">(.*?)</pre>", document, re.DOTALL)
    assert text is not None and text[1] != "not run", document[:2000]
    found: dict[str, Any] = json.loads(unescape(text[1]))
    return found


def addresses(floor: floors.Floor) -> dict[str, str]:
    status = floor.status()
    return {host["name"]: host["url"] for host in status["hosts"]} | {
        "controller": status["controller"]["url"]
    }


def test_a_page_of_another_origin_reads_nothing_and_changes_nothing(
    floor: floors.Floor, tmp_path: Path
) -> None:
    pids, operations = floor.pids(), floor.status()["operations"]
    doors: list[tuple[str, str, dict[str, Any]]] = []
    for name, url in addresses(floor).items():
        doors += [
            (f"{name} read", f"{url}/v1/instances", {}),
            (f"{name} read blind", f"{url}/v1/instances", {"mode": "no-cors"}),
            (f"{name} shutdown", f"{url}/v1/shutdown", {"method": "POST", "mode": "no-cors"}),
            (
                f"{name} failover",
                f"{url}/v1/site/failover",
                {
                    "method": "POST",
                    "mode": "no-cors",
                    "body": '{"service": "omsd", "reason": "page", "actor": "root"}',
                },
            ),
        ]
    found = attack(doors, tmp_path)
    assert set(found) == {name for name, _, _ in doors}
    for name, (kind, code, text) in found.items():
        # Opaque: the browser sent it, and the page may not look at what came.
        assert (kind, code, text) == ("opaque", 0, "") or (kind, code) == ("failed", 0), (
            name,
            kind,
            code,
            text,
        )
    assert any(kind == "opaque" for kind, _, _ in found.values()), "the browser did reach the doors"
    assert floor.pids() == pids and floor.status()["operations"] == operations and floor.healthy()


def test_a_page_whose_name_is_rebound_to_this_machine_reads_nothing(
    floor: floors.Floor, tmp_path: Path
) -> None:
    found = addresses(floor)
    for name in ("alpha", "controller"):
        port = found[name].rpartition(":")[2]
        document = browse(f"http://evil.test:{port}/health", tmp_path / name)
        assert "evil.test" in document and "OK" not in document, document
    assert "OK" in browse(f"{found['alpha']}/health", tmp_path / "by address")
