"""Fault: the disk under omsd's journals takes 1 s for each sync, on a whole floor (an os layer in between,
put into every Python process by a sitecustomize).

No lead is lost, nobody is restarted, trading goes on through new segments, and afterwards everything agrees.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.floor import up
from tests.support import floors

pytestmark = pytest.mark.timeout(180)

LAYER = """
import os, time

def slow(real):
    def call(fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        if "/data/omsd-" in path and os.path.exists(os.environ["SLOW_DISK_FLAG"]):
            time.sleep(1)
        return real(fd)
    return call

os.fsync, os.fdatasync = slow(os.fsync), slow(os.fdatasync)
"""


def shown(floor: floors.Floor) -> list[Any]:
    """Who leads in which epoch, and who runs."""
    return [
        (each["name"], each["leader"], each["epoch"], [(i["pid"], i["restarts"]) for i in each["instances"]])
        for each in floor.status()["services"]
    ]


def test_a_floor_whose_journals_are_on_a_slow_disk_loses_no_lead_and_trades_on(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(LAYER))
    flag = tmp_path / "slow"
    told = yaml.safe_load(up.default_services("lab").read_text())
    (omsd,) = (each for each in told["services"] if each["name"] == "omsd")
    omsd["settings"] = {"segment_bytes": 8192}
    services = tmp_path / "services.yml"
    services.write_text(yaml.safe_dump(told))
    environment = {"PYTHONPATH": str(tmp_path), "SLOW_DISK_FLAG": str(flag)}
    with floors.floor("--services", str(services), environment=environment) as floor:

        def traded() -> int:
            return int(floor.status()["flow"]["orders"])

        floors.wait_for("some trading", lambda: traded() > 20, pause_s=0.2)
        floors.wait_for("healthy", floor.healthy)
        before, leader = shown(floor), floor.service("omsd")["leader"]
        journal = floor.site_dir / "data" / leader

        def segments() -> set[str]:
            return {path.name[:20] for path in journal.glob("[0-9]*")}

        orders, known = traded(), segments()
        flag.touch()
        floors.wait_for(
            "segments that are begun while the disk is slow",
            lambda: len(segments() - known) >= 5 and traded() > orders + 20,
            pause_s=0.2,
        )
        assert shown(floor) == before, "no lead is lost, and nobody was restarted"
        assert not [each for each in floor.status()["alarms"] if each["id"].startswith("journal")]
        flag.unlink()
        floors.wait_for("positions equal to the venue's", floor.settled, pause_s=0.2)
        floors.wait_for("healthy", floor.healthy)
        assert shown(floor) == before
