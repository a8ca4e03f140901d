"""What an operator looks at, on a floor that trades: every reading verb, those that follow, health by curl;
and what `make` says is missing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from controlplane.http import unix
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
        [*floors.HFTCTL, *verb.split()],
        env=floor.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
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
    done = subprocess.run(
        ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", url],
        capture_output=True,
        text=True,
        check=True,
    )
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
    assert curl(f"{urls[-1]}/api/v1/status")[0] == 403
    answer = unix.request(floor.run_dir() / "controld.sock", "GET", "/api/v1/status")
    found = json.loads(answer.body)
    assert answer.status == 200 and {service["name"] for service in found["services"]} >= {"omsd", "execd"}
    assert curl(f"{urls[0]}/v1/instances/nobody/health")[0] == 404


COUNTED = {
    "simd": "hft_fills_total",
    "marketd": "hft_messages_total",
    "bookd": "hft_applied_total",
    "strategy-mm": "hft_orders_total",
    "riskd": "hft_approved_total",
    "omsd": "hft_orders_total",
    "execd": "hft_orders_total",
    "positiond": "hft_fills_total",
    "auditd": "hft_records_total",
}
TIMED = {("hft_tick_to_order_seconds", "execd"), ("hft_order_to_ack_seconds", "omsd")}


def test_every_daemon_s_counters_and_the_latencies_are_prometheus_text(floor: floors.Floor) -> None:
    """Read by Prometheus' own parser, from agents whose daemons trade."""

    def samples() -> list[Sample]:
        pages = [curl(f"{host['url']}/metrics")[1] for host in floor.status()["hosts"]]
        return [
            sample
            for page in pages
            for family in text_string_to_metric_families(page + "\n")
            for sample in family.samples
        ]

    def missing() -> set[tuple[str, str]]:
        counted = {
            (sample.name, sample.labels.get("service", "")) for sample in samples() if sample.value > 0
        }
        return (
            {(name, service) for service, name in COUNTED.items()}
            | {(f"{name}_count", service) for name, service in TIMED}
        ) - counted

    floors.wait_for("everything counted", lambda: not missing())
    found = samples()
    for name, service in TIMED:
        buckets = [
            sample
            for sample in found
            if (sample.name, sample.labels.get("service")) == (f"{name}_bucket", service) and sample.value
        ]
        (counted,) = [
            sample.value
            for sample in found
            if (sample.name, sample.labels.get("service")) == (f"{name}_count", service) and sample.value
        ]
        assert buckets[-1].labels["le"] == "+Inf" and buckets[-1].value == counted
        assert [sample.value for sample in buckets] == sorted(sample.value for sample in buckets), (
            "cumulative"
        )


@pytest.mark.parametrize(
    "verb", [*VERBS, *FOLLOWED, "failover omsd --reason x", "host list -o json", "status -o yaml"]
)
def test_without_a_floor_a_verb_that_asks_one_says_so_in_one_line_and_exits_3(
    tmp_path: Path, verb: str
) -> None:
    asked = floors.Floor(tmp_path / "nowhere").run(*verb.split())
    assert asked.returncode == 3 and asked.stdout == ""
    assert asked.stderr == f"hftctl: no floor runs in {tmp_path}/nowhere (start one with: hftctl up)\n"


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("", "Python 3.11 or newer is missing: apt-get install python3 "),
        ("false", "the venv module of false is missing: apt-get install python3-venv "),
    ],
)
def test_what_a_machine_lacks_is_named_with_the_command_that_installs_it(
    tmp_path: Path, python: str, said: str
) -> None:
    alone = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    }  # not as a part of `make test`
    wanted = ["make", "install", f"PYTHON={python}", f"VENV={tmp_path}/venv"]
    done = subprocess.run(wanted, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout.startswith(said) and done.stdout.count("\n") == 1, (
        done.stdout + done.stderr
    )
