"""A real floor for a test or a benchmark: `hftctl` as a user runs it, in a site folder of its own, taken down
on every path.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane.errors import FloorUnreachable
from controlplane.floor import folders
from controlplane.host import identity
from controlplane.http import unix

HFTCTL = [sys.executable, "-m", "controlplane.cli.main"]
WAIT_S = 60.0
"""Far more than anything here takes on an idle machine: a test waits for a condition, not for a speed."""


EVENTS_KEPT = 80
LOG_LINES_KEPT = 40

open_floors: list[Floor] = []
"""Up now: conftest.py adds their accounts to the report of a test that failed."""


class NotInTime(AssertionError):
    pass


def wait_for(what: str, found: Callable[[], Any], *, seconds: float = WAIT_S, pause_s: float = 0.05) -> Any:
    """The first true value of `found`; NotInTime naming `what` (and the last value) after the bound."""
    end = time.monotonic() + seconds
    value = None
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(pause_s)
    raise NotInTime(f"{what}: not within {seconds:g} s (last: {value!r})")


class Floor:
    def __init__(
        self, site_dir: Path, environment: Mapping[str, str] | None = None, without: Sequence[str] = ()
    ) -> None:
        self.site_dir = site_dir
        self.environment = {
            **os.environ,
            **(environment or {}),
            "HFT_SITE_DIR": str(site_dir),
            "NO_COLOR": "1",
        }
        for name in without:
            self.environment.pop(name, None)

    def run(self, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HFTCTL, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *words: str, timeout_s: float = 120) -> Any:
        """What the verb prints with -o json, whatever its exit code."""
        done = self.run(*words, "-o", "json", timeout_s=timeout_s)
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise AssertionError(
                f"hftctl {' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            ) from None

    def up(self, *words: str) -> subprocess.CompletedProcess[str]:
        kind = self.environment.get("HFT_TEST_STORE")  # of the suites that run on each kind
        done = self.run("up", "--detach", *(["--store", kind] if kind else []), *words, timeout_s=180)
        assert done.returncode == 0, f"up: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def status(self) -> dict[str, Any]:
        status = self.json("status")
        assert isinstance(status, dict)
        return status

    def service(self, name: str) -> dict[str, Any]:
        (service,) = [service for service in self.status()["services"] if service["name"] == name]
        return dict(service)

    def instance(self, id: str) -> dict[str, Any]:
        (instance,) = [
            i for service in self.status()["services"] for i in service["instances"] if i["id"] == id
        ]
        return dict(instance)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def healthy(self) -> bool:
        """False too while nobody can say: an agent that has just started has not seen the store yet."""
        done = self.run("status", "-o", "json")
        return done.returncode == 0 and bool(json.loads(done.stdout)["healthy"])

    def pids(self) -> dict[str, int]:
        return {
            instance["id"]: instance["pid"]
            for service in self.status()["services"]
            for instance in service["instances"]
        }

    def run_dir(self) -> Path:
        return folders.Folders(self.site_dir).run_dir()

    def parent(self) -> dict[str, Any]:
        """floor.json: what hft-floord runs."""
        return folders.Folders(self.site_dir).running() or {}

    def store_pid(self) -> int:
        """Of the store that the floor runs itself, of either kind; 0: it runs none now."""
        processes = self.parent()["processes"]
        return int(processes.get(self.parent()["store"]["kind"], {}).get("pid", 0))

    def holder(self, host: str, lock: str) -> int:
        """Pid of the agent or keeper of a host while it runs, as its lock file names it; else 0."""
        known = identity.from_plain(
            folders.read_json(self.site_dir / "hosts" / host / f"{lock}.lock") or {}, lock
        )
        return known.pid if known is not None and identity.runs(known) else 0

    def ask(self, service: str, what: str) -> Any:
        """What a daemon says of itself, over any agent."""
        for host in self.parent()["hosts"]:
            with contextlib.suppress(FloorUnreachable):
                answer = json.loads(
                    unix.request(
                        self.run_dir() / f"{host}.agent.sock", "GET", f"/v1/site/ask/{service}/{what}"
                    ).body
                )
                if answer.get("ok"):
                    return answer["body"]
        raise AssertionError(f"{service} was not asked for its {what}")

    def settled(self) -> bool:
        """Every position equals the venue's account, to the last unit."""
        rows = self.json("positions")
        return bool(rows) and all(
            (row["quantity"], row["cash"]) == (row["venue_quantity"], row["venue_cash"]) for row in rows
        )

    def account(self) -> str:
        """What is needed to see why a test failed on it: its state, its last events, the end of each log."""
        parts = [
            f"$ hftctl {verb}\n{done.stdout}{done.stderr}"
            for verb in ("status", "history omsd")
            for done in [self.run(*verb.split())]
        ]
        events = self.run("events")
        parts.append(
            "$ hftctl events\n" + "\n".join((events.stdout + events.stderr).splitlines()[-EVENTS_KEPT:])
        )
        for path in sorted(folders.Folders(self.site_dir).logs.glob("*.log")):
            lines = [
                line
                for line in path.read_text(errors="replace").splitlines()
                if not line.startswith('{"level":"info"')
            ][-LOG_LINES_KEPT:]
            parts.append("\n".join([f"--- {path.relative_to(self.site_dir)}", *lines]))
        return "\n".join(parts)

    def trades(self) -> bool:
        """New orders leave."""
        before = self.status()["flow"]["orders"]
        return bool(wait_for("new orders", lambda: self.status()["flow"]["orders"] > before, pause_s=0.2))


def processes_of(site_dir: Path) -> list[str]:
    """Command lines of live processes that name the site folder or its run folder (what `down` must leave
    none of).
    """
    marks = [str(site_dir), str(folders.Folders(site_dir).run_dir())]
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes().decode(errors="replace")
            if any(mark in line or mark in environment for mark in marks):
                found.append(f"{entry.name}: {line}")
    return found


@contextlib.contextmanager
def floor(
    *words: str,
    environment: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    bring_up: bool = True,
) -> Iterator[Floor]:
    """A floor that is up (unless bring_up is False) and is down, with nothing left, afterwards."""
    with tempfile.TemporaryDirectory(prefix="hft-floor-") as name:
        one = Floor(Path(name).resolve(), environment, without)
        try:
            open_floors.append(one)
            if bring_up:
                one.up(*words)
            yield one
        except Exception:
            print(one.account())
            raise
        finally:
            open_floors.remove(one)
            one.run("down", timeout_s=120)
