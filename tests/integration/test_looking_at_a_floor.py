"""What an operator looks at, on a floor that trades: every reading verb, those that follow, health by curl; and what `make` says is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import floors

ROOT = Path(__file__).resolve().parents[2]
VERBS = {
    "status": "omsd-alpha-1",
    "services": "strategy-mm",
    "endpoints omsd": "omsd-beta-1",
    "health": "positiond-beta-1",
    "host list": "beta",
    "logs riskd-alpha-1": "ready",
    "events": "instance.started",
    "orders": "omsd",
    "orders --wide": "post_only",
    "positions": "BTCUSDT",
    "positions --wide": "UNREALISED",
    "history omsd": "first",
}
"""Verb -> what it shows on this floor."""
FOLLOWED = {"status --watch": "site lab", "events -f": "instance.started", "logs -f auditd-beta-1": "ready"}


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        floors.wait_for("a fill", lambda: one.status()["flow"]["fills"] > 0, pause_s=0.2)
        yield one


@pytest.mark.parametrize("verb", VERBS)
def test_a_reading_verb_shows_what_is_there(floor: floors.Floor, verb: str) -> None:
    shown = floor.run(*verb.split())
    assert shown.returncode == 0 and VERBS[verb] in shown.stdout, shown.stdout + shown.stderr


@pytest.mark.parametrize("verb", FOLLOWED)
def test_a_following_verb_goes_on_until_ctrl_c(floor: floors.Floor, verb: str) -> None:
    follower = subprocess.Popen(
        [*floors.HFTCTL, *verb.split()], env=floor.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    try:
        assert follower.stdout is not None
        assert any(FOLLOWED[verb] in line for line in follower.stdout), "ended before it showed anything"
        assert follower.poll() is None
        follower.send_signal(signal.SIGINT)
        rest, _ = follower.communicate(timeout=60)
    finally:
        if follower.poll() is None:
            follower.kill()
            follower.wait()
    assert follower.returncode == 130 and "Traceback" not in rest, rest


def curl(url: str) -> tuple[int, str]:
    done = subprocess.run(["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", url], capture_output=True, text=True, check=True)
    body, _, code = done.stdout.rpartition("\n")
    return int(code), body.strip()


def test_curl_is_answered_by_agents_and_controller(floor: floors.Floor) -> None:
    status = floor.status()
    urls = [host["url"] for host in status["hosts"]] + [status["controller"]["url"]]
    for url in urls:
        floors.wait_for(f"{url} healthy", lambda url=url: curl(f"{url}/health") == (200, "OK"))  # type: ignore[misc]
        assert curl(f"{url}/live") == curl(f"{url}/ready") == (200, "OK")
        code, text = curl(f"{url}/metrics")
        assert code == 200 and "# TYPE hft_" in text
    code, text = curl(f"{urls[-1]}/api/v1/status")
    assert code == 200 and {service["name"] for service in json.loads(text)["services"]} >= {"omsd", "execd"}
    assert curl(f"{urls[0]}/v1/instances/nobody/health")[0] == 404


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("", "Python 3.11 or newer is missing: apt-get install python3 "),
        ("false", "the venv module of false is missing: apt-get install python3-venv "),
    ],
)
def test_what_a_machine_lacks_is_named_with_the_command_that_installs_it(tmp_path: Path, python: str, said: str) -> None:
    alone = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}  # not as a part of `make test`
    wanted = ["make", "install", f"PYTHON={python}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(wanted, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.startswith(said) and done.stdout.count("\n") == 1, done.stdout + done.stderr
