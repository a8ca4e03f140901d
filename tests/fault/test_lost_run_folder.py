"""The run folder lost while the floor runs, as at a logout, and what is known of a floor lost with it: the
living are found by their marks and locks, nothing is started beside them, and it is healthy again.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import Self

from controlplane.floor import processes
from controlplane.floor.folders import Folders
from controlplane.host import identity
from tests.support import floors

HEALTHY_AGAIN_S = 60.0
ELSEWHERE = {"XDG_RUNTIME_DIR": "/run/user/4242", "TMPDIR": "/nonexistent", "PATH": os.environ["PATH"]}
"""As a cron job has it, or sudo: nothing of the session that brought the floor up."""


def daemons(site_dir: Path) -> dict[str, set[int]]:
    """Instance -> pids of its daemons that live, by their environment and their command line."""
    found = defaultdict(set)
    for entry in Path("/proc").iterdir():
        try:
            environment = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            title = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        mine = os.fsencode(f"{processes.FLOOR_MARK}={site_dir}") in environment
        for each in environment if mine and state != "Z" and not title.startswith(b"hft-shim") else ():
            if each.startswith(b"HFT_INSTANCE=") and b"shim.pyc" not in title:
                found[each.partition(b"=")[2].decode()].add(int(entry.name))
    return found


class NoTwo:
    """Looks all the while whether an instance runs twice."""

    def __init__(self, site_dir: Path) -> None:
        self.seen: dict[str, set[int]] = {}
        self.looks = 0
        self._site_dir, self._end = site_dir, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.wait(0.05):
            self.looks += 1
            for instance, pids in daemons(self._site_dir).items():
                # Twice in a row: one may have ended, and its successor begun, while we read.
                if len(pids) > 1 and len(again := daemons(self._site_dir)[instance] & pids) > 1:
                    self.seen.setdefault(instance, set()).update(again)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()


def gone(run_dir: Path) -> None:
    """All at once, as a login manager unmounts it."""
    aside = run_dir.with_name(f"{run_dir.name}-gone")
    run_dir.rename(aside)
    shutil.rmtree(aside)


def wait_healthy(floor: floors.Floor, before: dict[str, int]) -> dict[str, int]:
    """Until every instance has been restarted, and both hosts' agents call the site healthy."""

    def found() -> dict[str, int] | None:
        status = floor.run("status", "-o", "json")
        if status.returncode != 0 or not floor.healthy():
            return None
        pids = floor.pids()
        return pids if not set(pids.values()) & set(before.values()) else None

    again: dict[str, int] = floors.wait_for("healthy again", found, seconds=HEALTHY_AGAIN_S)
    return again


def test_a_lost_run_folder_is_made_again_and_each_daemon_restarted_once_in_its_turn() -> None:
    with floors.floor() as floor:
        before, run_dir, parent = floor.pids(), floor.run_dir(), floor.parent()
        with NoTwo(floor.site_dir) as watch:
            gone(run_dir)
            pids = wait_healthy(floor, before)
        assert watch.looks and not watch.seen, "an instance ran twice"
        assert set(pids) == set(before)
        restarts = {
            instance["id"]: instance["restarts"]
            for service in floor.status()["services"]
            for instance in service["instances"]
        }
        assert set(restarts.values()) == {1}, restarts
        now = floor.parent()
        assert now["run_dir"] == str(run_dir) and now["floord"] == parent["floord"]
        kind = parent["store"]["kind"]
        assert now["processes"][kind]["pid"] != parent["processes"][kind]["pid"]
        # The store's own restart may cost a lease; whoever leads when its turn comes hands over.
        rows = [row for row in floor.json("history", "omsd") if row["cause"] != "first"]
        assert {row["cause"] for row in rows} <= {"stopped", "lease_expired"}, rows
        assert rows[-1]["cause"] == "stopped" and rows[-1]["from"] != rows[-1]["to"], rows
        assert floor.service("omsd")["leader"] == rows[-1]["to"]
        stores = {Path(endpoint.removeprefix("unix:")).name for endpoint in now["store"]["endpoints"]}
        assert {path.name for path in run_dir.iterdir()} >= {"alpha.agent.sock", "beta.keeper.sock"} | stores


def test_nothing_is_started_beside_the_living_by_an_up_from_another_environment() -> None:
    """hft-floord and an agent dead, run folder and floor.json lost: all that is left is who runs."""
    with floors.floor() as floor:
        before, parent, folders = floor.pids(), floor.parent(), Folders(floor.site_dir)
        dead = [parent["floord"], parent["processes"]["agent-alpha"]]
        with NoTwo(floor.site_dir) as watch:
            for record in dead:
                floor.kill(record["pid"])
            gone(folders.run_dir())
            folders.floor_json.unlink()
            floor.environment = ELSEWHERE | {
                name: value for name, value in floor.environment.items() if name.startswith(("HFT_", "HOME"))
            }
            up = floor.run("up", "--detach", "--timeout", "60", timeout_s=120)
            assert up.returncode == 0, up.stdout + up.stderr
            pids = wait_healthy(floor, before)
        assert not watch.seen and set(pids) == set(before)
        others = sorted(
            " ".join(process.instance.split()[:2])
            for process in processes.marked(folders)
            if process.instance.startswith(("hft-keeperd", "hft-agentd", "hft-controld", "hft-floord"))
        )
        wanted = [f"hft-{what}d {host}@lab" for what in ("agent", "keeper") for host in ("alpha", "beta")]
        assert [each for each in others if "@" in each] == wanted and len(others) == len(wanted) + 2
        assert floor.run("down").returncode == 0


def test_a_floor_whose_floor_json_is_lost_is_adopted_as_it_runs() -> None:
    with floors.floor() as floor:
        before, parent, folders = floor.pids(), floor.parent(), Folders(floor.site_dir)
        floor.kill(parent["floord"]["pid"])
        floors.wait_for("it is dead", lambda: not identity.runs(identity.from_plain(parent["floord"])))  # type: ignore[arg-type]
        folders.floor_json.unlink()
        up = floor.run("up", "--detach", "--timeout", "60", timeout_s=120)
        assert up.returncode == 0, up.stdout + up.stderr
        assert floor.pids() == before
        assert floor.parent()["processes"] == parent["processes"]
        assert floor.parent()["store"]["endpoints"] == parent["store"]["endpoints"]


def test_a_daemon_whose_page_alone_is_removed_is_restarted_and_no_other() -> None:
    with floors.floor() as floor:
        before = floor.pids()
        began = time.monotonic()
        (floor.run_dir() / "bookd-alpha-1.alive").unlink()
        floors.wait_for(
            "bookd is another",
            lambda: floor.healthy() and floor.pids()["bookd-alpha-1"] != before["bookd-alpha-1"],
            seconds=HEALTHY_AGAIN_S,
        )
        assert time.monotonic() - began < HEALTHY_AGAIN_S
        now = floor.pids()
        assert {name for name in now if now[name] != before[name]} == {"bookd-alpha-1"}
        said = floor.run("events").stdout
        assert 'instance.pages_lost instance="bookd-alpha-1"' in said


def test_an_agent_that_is_cut_off_starts_nothing_until_it_is_started_anew() -> None:
    """hft-floord stopped: nobody makes the folder again yet, and the floor trades on."""
    with floors.floor() as floor:
        before, parent = floor.pids(), floor.parent()
        floord = parent["floord"]["pid"]
        os.kill(floord, signal.SIGSTOP)
        try:
            gone(floor.run_dir())
            time.sleep(2)
            assert {name: len(pids) for name, pids in daemons(floor.site_dir).items()} == dict.fromkeys(
                before, 1
            )
            assert all(Path(f"/proc/{pid}").exists() for pid in before.values())
            refused = floor.run("status")
            assert refused.returncode == 3 and "somebody removed them" in refused.stderr
        finally:
            os.kill(floord, signal.SIGCONT)
        wait_healthy(floor, before)
