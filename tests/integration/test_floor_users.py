"""A floor of an ordinary user, and two floors beside each other: what only root may is left out, and nobody meets anybody."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from tests.support import floors

LAB = Path(__file__).resolve().parents[2] / "inventory" / "lab" / "services.yml"
NOBODY = 65_534
AS_NOBODY = [
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=+dac_read_search",
]
"""May read what is here (the tests' own interpreter may lie in root's home), and nothing else that root may."""


def test_an_ordinary_user_has_a_floor_and_hears_once_what_is_left_out() -> None:
    with floors.floor(bring_up=False) as floor:
        told = yaml.safe_load(LAB.read_text())
        for service in told["services"]:
            service["sched"] = "fifo"
        services, run = floor.site_dir / "services-fifo.yml", floor.site_dir / "run"
        services.write_text(yaml.safe_dump(told))
        run.mkdir(mode=0o700)
        user, prefix = os.geteuid(), []
        if user == 0:
            user, prefix = NOBODY, AS_NOBODY
            for path in (floor.site_dir, services, run):
                os.chown(path, NOBODY, NOBODY)
        floor.environment |= {"XDG_RUNTIME_DIR": str(run), "HOME": str(floor.site_dir)}

        def hftctl(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*prefix, *floors.HFTCTL, *words], env=floor.environment, capture_output=True, text=True, timeout=180, check=False)

        try:
            up = hftctl("up", "--detach", "--services", str(services))
            assert up.returncode == 0, up.stdout + up.stderr
            assert up.stdout.count("not root: real-time scheduling") == 1
            pids = floor.pids()
            assert len(pids) == 10 and {Path(f"/proc/{pid}").stat().st_uid for pid in pids.values()} == {user}
            assert {os.sched_getscheduler(pid) for pid in pids.values()} == {os.SCHED_OTHER}
            assert hftctl("events").stdout.count("sched fifo: needs root") == 2, "once for each host"
        finally:
            down = hftctl("down")
        assert down.returncode == 0 and not floors.processes_of(floor.site_dir)


def test_a_second_floor_stands_beside_the_first() -> None:
    with floors.floor() as first, floors.floor() as second:
        assert first.healthy() and second.healthy() and not set(first.pids().values()) & set(second.pids().values())
        before = second.pids()
        assert first.run("down").returncode == 0 and not floors.processes_of(first.site_dir)
        assert second.healthy() and second.pids() == before
