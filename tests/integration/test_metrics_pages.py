"""Every metrics page of a floor as Prometheus' own tool judges it: names, base units, types, help."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import metrics
from hftd.engine.market import book
from hftd.venues import intake
from tests.support import floors, http_get, promtool
from tests.unit.agents.test_metrics import OWN, observed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> Path:
    found = promtool.at_hand()
    if found is None:
        pytest.skip("promtool is not here (make promtool gets it)")
    return found


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor("--seed", "5") as one:
        yield one


def pages(floor: floors.Floor) -> dict[str, bytes]:
    status = floor.status()
    urls = [status["controller"]["url"], *(host["url"] for host in status["hosts"])]
    return {url: asyncio.run(http_get.get(f"{url}/metrics", timeout_s=10)).body for url in urls}


def test_promtool_has_nothing_against_any_page_of_a_trading_floor(tool: Path, floor: floors.Floor) -> None:
    def everything_is_there() -> dict[str, bytes] | None:
        found = pages(floor)
        whole = b"".join(found.values())
        wanted = ("clock_offset_seconds", "tick_to_order_seconds_bucket", "fills_total", "site_healthy")
        return found if all(f"hft_{name}".encode() in whole for name in wanted) else None

    found = floors.wait_for("metrics of all kinds", everything_is_there)
    assert len(found) == 3
    assert {url: promtool.faults(tool, page) for url, page in found.items()} == {url: [] for url in found}


def test_promtool_is_awake(tool: Path) -> None:
    page = b"# HELP hft_clock_offset_ms x\n# TYPE hft_clock_offset_ms gauge\nhft_clock_offset_ms 1\n"
    assert promtool.faults(tool, page)


def test_promtool_has_nothing_against_any_name_that_a_daemon_can_say(tool: Path) -> None:
    """A counter appears when it first counts: those of faults are on no page of a healthy floor."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "hftd").rglob("*.py")))
    counted = re.findall(r"""(?:\bcount\(|counters\[|"counts": \{)\s*f?["']([a-z_]+)""", source)
    counted += [*book.COUNTED, *intake.Intake(()).tallies()]
    gauges = re.findall(r"""\bgauge\(\s*f?["']([a-z_]+)""", source)
    histograms = re.findall(r"""\bhistogram\(\s*["']([a-z_]+)""", source)
    assert len(set(counted)) > 40 and len(set(gauges)) > 10 and len(set(histograms)) >= 3
    status = observed(counters=dict.fromkeys(counted, 1), histograms={name: {100: 1} for name in histograms})
    page = metrics.text([status], {status.id: dict.fromkeys(gauges, 1.0)}, OWN)
    assert promtool.faults(tool, page) == []
