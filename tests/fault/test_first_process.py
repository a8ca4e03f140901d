"""As pid 1 of a container: orphans are reaped, and nobody is robbed of how its own children ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.supervisor import runner
from tests.support import agents, floors
from tests.support.agents import site_folder

pytestmark = pytest.mark.timeout(300)
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
ORPHANS = 5


@pytest.fixture(autouse=True)
def may_make_namespaces() -> None:
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("needs unshare and nsenter (util-linux)")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a pid namespace")


class Container:
    """A pid namespace, and its pid 1 as seen from outside."""

    def __init__(self, unshare: subprocess.Popen[bytes]) -> None:
        self.unshare = unshare
        children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
        self.first = int(until(lambda: children.read_text().split())[0])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = ["nsenter", "--target", str(self.first), "--pid", "--mount", "--", *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=120, check=False)

    def leave_orphans(self) -> None:
        """Which die a little later: children of pid 1, that it has not started."""
        for _ in range(ORPHANS):
            assert self.run("sh", "-c", "sleep 0.05 & exit 0").returncode == 0

    def stat(self) -> dict[int, tuple[str, str, int]]:
        """Pid inside -> name, state, parent."""
        found = {}
        listed = self.run("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null")
        for line in listed.stdout.splitlines():
            pid, _, rest = line.partition(" (")
            name, _, fields = rest.rpartition(") ")
            found[int(pid)] = (name, fields.split()[0], int(fields.split()[1]))
        return found

    def zombies(self) -> list[str]:
        return [name for name, state, _ in self.stat().values() if state == "Z"]

    def ended(self, number: int | None = None) -> int:
        """Its exit code, after this signal to pid 1."""
        if number is not None:
            os.kill(self.first, number)
        return self.unshare.wait(120)


def until(what: Callable[[], Any]) -> Any:
    return floors.wait_for("a container", what)


@contextlib.contextmanager
def container(*command: str, log: Path, environment: dict[str, str] | None = None) -> Iterator[Container]:
    with log.open("ab") as file:
        unshare = subprocess.Popen(
            [*UNSHARE, *command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        yield Container(unshare)
    except BaseException:
        print(log.read_text())
        raise
    finally:
        unshare.kill()  # and with it pid 1, and all
        unshare.wait(60)


WAITS = """
import subprocess, sys, time
from controlplane.host import first_process
first_process.leave_to_another()
for code in range(20):
    subprocess.run(["sh", "-c", "sleep 0.01 & exit 0"], check=True)
    assert subprocess.run(["sh", "-c", f"exit {code}"]).returncode == code
print("all told", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)]
)
def test_pid_1_reaps_orphans_and_passes_on_signals_and_the_end(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    log = tmp_path / "log"
    with container(sys.executable, "-c", WAITS, log=log) as inside:
        until(lambda: "all told" in log.read_text())
        inside.leave_orphans()
        until(lambda: not inside.zombies() and "sleep" not in str(inside.stat()))
        assert inside.stat()[1][0] == "hft-init"
        assert inside.ended(number) == code


def test_its_exit_code_is_the_process_s_own() -> None:
    code = "from controlplane.host import first_process as f; f.leave_to_another(); raise SystemExit(7)"
    assert subprocess.run([*UNSHARE, sys.executable, "-c", code], check=False, timeout=60).returncode == 7


def test_an_agent_as_pid_1_reaps_orphans(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with site_folder() as folder:
        words = agents.AgentProcess(folder, "alpha", "memory://alone", "--no-keeper").command
        with container(*words, log=log) as inside:
            until(lambda: "agent.started" in log.read_text())
            inside.leave_orphans()
            until(lambda: not inside.zombies() and "sleep" not in str(inside.stat()))
            assert inside.ended(signal.SIGTERM) == 0
            assert "process.stopping signal='SIGTERM'" in log.read_text()


def test_a_shim_as_pid_1_reaps_orphans_and_knows_how_its_daemon_ended(tmp_path: Path) -> None:
    plan = {"instance": "x-alpha-1", "service": "x", "host": "alpha", "restarts": 0, "spec_hash": "h"}
    plan |= {
        "spec_revision": 7,
        "config_revision": 1,
        "state": tmp_path / "state",
        "log": tmp_path / "daemon",
        "log_bytes": 1 << 20,
    }
    plan |= {"log_files": 3, "ready_fd": 1, "grace_s": 5, "cpus": "", "lock": tmp_path / "lock"}
    shim = [sys.executable, "-I", "-S", str(Path(runner.__file__).with_name("shim.py"))]
    daemon = "import os, time; print(os.getppid(), flush=True); time.sleep(600)"
    words = [f"{key}={value}" for key, value in plan.items()]
    log = tmp_path / "log"
    with container(*shim, *words, "--", sys.executable, "-c", daemon, log=log) as inside:
        until(lambda: (tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text() == "1\n")
        inside.leave_orphans()
        until(lambda: not inside.zombies() and "sleep" not in str(inside.stat()))
        state = runner.read_state(tmp_path / "state")
        assert state is not None and state.exit is None and state.shim.pid == 1
        assert inside.run("kill", "-9", str(state.daemon.pid)).returncode == 0
        assert inside.ended() == 0
        ended = runner.read_state(tmp_path / "state")
        assert ended is not None and ended.exit is not None and ended.exit.words == "killed by SIGKILL"


def test_a_floor_that_is_brought_up_as_pid_1_reaps_and_restarts_and_goes_down(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    with floors.floor(bring_up=False) as floor:
        with container(*floors.HFTCTL, "up", log=log, environment=dict(floor.environment)) as inside:

            def asked(verb: str) -> Any:
                done = inside.run(
                    *floors.HFTCTL, *verb.split(), "-o", "json", "--site-dir", str(floor.site_dir)
                )
                return json.loads(done.stdout) if done.stdout else {}

            floors.wait_for("healthy", lambda: asked("status").get("healthy"), seconds=120)
            rows = [row for service in asked("status")["services"] for row in service["instances"]]
            (auditd, before) = next((row["id"], row["pid"]) for row in rows if row["id"].startswith("auditd"))
            inside.leave_orphans()
            assert inside.run("kill", "-9", str(before)).returncode == 0

            def told() -> Any:
                return [
                    event["fields"]["reason"]
                    for event in asked("events")
                    if event["kind"] == "instance.exited" and event["fields"]["instance"] == auditd
                ]

            assert until(told) == ["killed by SIGKILL"]
            agent = json.loads((floor.site_dir / "hosts" / "alpha" / "agent.lock").read_text())
            assert inside.run("kill", "-9", str(agent["pid"])).returncode == 0
            until(lambda: f"pid {agent['pid']} killed by signal 9" in floord_log(floor))
            floors.wait_for("healthy again", lambda: asked("status").get("healthy"), seconds=120)
            until(lambda: not inside.zombies() and "sleep" not in str(inside.stat()))
            assert inside.ended(signal.SIGTERM) == 143
        assert "taking the floor down" in log.read_text()


def floord_log(floor: floors.Floor) -> str:
    return (floor.site_dir / "logs" / "floord.log").read_text()
