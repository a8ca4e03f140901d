"""A floor of root, one of an ordinary user, and two beside each other: what only root may is left out, and
nobody meets anybody.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from controlplane.host import sched
from tests.support import floors

LAB = Path(__file__).resolve().parents[2] / "inventory" / "lab" / "services.yml"
NOBODY = 65_534
WITHOUT = {
    "an ordinary user": [
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ],
    "root in a container": ["--bounding-set=-sys_nice,-ipc_lock", "--inh-caps=-sys_nice,-ipc_lock"],
}
"""How root becomes somebody who may not be real-time. The first may read what is here, as the tests' own
interpreter may lie in root's home, and nothing else that root may."""


REAL_TIME = {"marketd", "bookd", "strategy-mm", "riskd", "omsd", "execd"}
"""Services of the lab that ask for SCHED_FIFO: those between a tick and its order."""


def scheduled(pid: int) -> tuple[int, int]:
    return os.sched_getscheduler(pid), os.sched_getparam(pid).sched_priority


def threads(pid: int) -> set[int]:
    return {int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()}


def test_the_path_runs_in_real_time_where_it_may_and_what_leases_live_on_comes_before_it() -> None:
    with floors.floor() as floor:
        store = floor.store_pid()
        pids = {service["name"]: service["instances"][0]["pid"] for service in floor.status()["services"]}
        shims = {json.loads(path.read_bytes())["shim"]["pid"] for path in floor.run_dir().glob("*.shim.json")}
        agents, keepers = (
            {floor.holder(host, lock) for host in ("alpha", "beta")} for lock in ("agent", "keeper")
        )
        found = [
            {scheduled(pid) for pid in some}
            for some in ({pids[name] for name in REAL_TIME}, keepers | threads(store))
        ]
        assert found == (
            [{(os.SCHED_FIFO, 1)}, {(os.SCHED_FIFO, 2)}]
            if sched.may_be_real_time()
            else [{(os.SCHED_OTHER, 0)}] * 2
        )
        rest = {pid for name, pid in pids.items() if name not in REAL_TIME} | shims | agents
        assert {scheduled(pid) for pid in rest} == {(os.SCHED_OTHER, 0)}


@pytest.mark.parametrize("who", WITHOUT)
def test_who_may_not_be_real_time_has_a_floor_and_hears_once_what_is_left_out(who: str) -> None:
    with floors.floor(bring_up=False) as floor:
        run = floor.site_dir / "run"
        run.mkdir(mode=0o700)
        user, prefix = os.geteuid(), []
        if user == 0:
            user, prefix = NOBODY if who == "an ordinary user" else 0, ["setpriv", *WITHOUT[who]]
            for path in (floor.site_dir, run):
                os.chown(path, user, user)
        floor.environment |= {"XDG_RUNTIME_DIR": str(run), "HOME": str(floor.site_dir)}

        def hftctl(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*prefix, *floors.HFTCTL, *words],
                env=floor.environment,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )

        try:
            up = hftctl("up", "--detach")
            assert up.returncode == 0, up.stdout + up.stderr
            assert up.stdout.count("real-time scheduling (sched fifo) and locked memory are left out") == 1
            pids = floor.pids()
            assert len(pids) == 10 and {Path(f"/proc/{pid}").stat().st_uid for pid in pids.values()} == {user}
            assert {os.sched_getscheduler(pid) for pid in pids.values()} == {os.SCHED_OTHER}
            assert hftctl("events").stdout.count("sched fifo and locked memory: not permitted") == 2, (
                "once for each host"
            )
        finally:
            down = hftctl("down")
        assert down.returncode == 0 and not floors.processes_of(floor.site_dir)


def without_rehearsals(folder: Path) -> Path:
    """The lab's services, less what takes most of its processor time: two floors fit on a small machine, and
    on a slow one."""
    told = yaml.safe_load(LAB.read_text())
    for service in told["services"]:
        if "rehearsal_interval_s" in service.get("settings", {}):
            service["settings"]["rehearsal_interval_s"] = 0
    path = folder / "services.yml"
    path.write_text(yaml.safe_dump(told))
    return path


def test_a_second_floor_stands_beside_the_first(tmp_path: Path) -> None:
    words = ("--services", str(without_rehearsals(tmp_path)))
    with floors.floor(*words) as first, floors.floor(*words) as second:
        assert (
            first.healthy()
            and second.healthy()
            and not set(first.pids().values()) & set(second.pids().values())
        )
        before = second.pids()
        assert first.run("down").returncode == 0 and not floors.processes_of(first.site_dir)
        assert second.healthy() and second.pids() == before
