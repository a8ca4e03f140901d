"""Fault: what a configured check looks at breaks, on a real floor. `hftctl health` names the check, status
says why, the registration goes in the end, and all comes back by itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import model, registry, store
from controlplane.floor import folders
from controlplane.model.records import Registration
from controlplane.store import Keys
from tests.support import floors

pytestmark = pytest.mark.timeout(300)
KEYS = Keys("lab")
INSTANCE = "auditd-beta-1"
SERVICES = """\
services:
  - name: simd
    daemon: simd
    mode: singleton
    hosts: [alpha]
  - name: auditd
    daemon: auditd
    mode: singleton
    hosts: [beta]
"""
CHECKS = """\
    checks:
      - {kind: script, name: disk, program: disk.sh, arguments: ["{instance}"], interval_s: 0.5, failures: 2,
         deregister_after_s: 3}
      - {kind: script, name: hang, program: hang.sh, interval_s: 0.5, timeout_s: 0.5, failures: 10,
         initial: passing, deregister_after_s: 0}
"""


class Checked:
    """A floor whose beta has check scripts, one of which is as a file says."""

    def __init__(self, floor: floors.Floor) -> None:
        self.floor = floor
        self.services = floor.site_dir / "services.yml"
        self.scripts = floor.site_dir / "checks"
        self.verdict = floor.site_dir / "verdict"

    def script(self, name: str, text: str) -> None:
        path = self.scripts / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def apply(self, text: str) -> None:
        self.services.write_text(text)
        done = self.floor.run("apply", "-f", str(self.services), "--yes", "--reason", "checks")
        assert done.returncode == 0, done.stderr

    def health(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        done = self.floor.run("health", *words, "-o", "json")
        return done.returncode, json.loads(done.stdout) if done.stdout else []

    def state(self, check: str) -> str:
        return next((row["state"] for row in self.health(INSTANCE)[1] if row["check"] == check), "")

    def registered(self) -> Registration | None:
        where = folders.Folders(self.floor.site_dir).store_url()
        assert where is not None

        async def read() -> Registration | None:
            client = store.connect(where)
            view = registry.watch(client, KEYS)  # whatever the back end keeps them in
            try:
                entry = (await anext(view)).entries.get(KEYS.registration("auditd", INSTANCE))
            finally:
                await view.aclose()
                await client.close()
            return model.decode(Registration, entry.value) if entry else None

        return asyncio.run(read())


@pytest.fixture(scope="module")
def checked() -> Iterator[Checked]:
    with floors.floor(bring_up=False) as one:
        found = Checked(one)
        found.scripts.mkdir(parents=True)
        found.services.write_text(SERVICES)
        found.verdict.write_text("0")
        found.script("disk.sh", f'echo "disk of $1"; exit $(cat {found.verdict})')
        found.script("hang.sh", "exit 0")
        one.up("--services", str(found.services))
        yield found


def test_checks_come_with_an_apply_and_restart_nothing(checked: Checked) -> None:
    floors.wait_for("healthy", checked.floor.healthy)
    pid = checked.floor.instance(INSTANCE)["pid"]
    code, rows = checked.health(INSTANCE)
    assert (code, [row["check"] for row in rows]) == (0, ["process", "heartbeat"])
    checked.apply(SERVICES + CHECKS)
    floors.wait_for("the check passes", lambda: checked.state("disk") == "passing")
    code, rows = checked.health("auditd")
    assert (code, [row["kind"] for row in rows]) == (0, ["process", "heartbeat", "script", "script"])
    [row] = [row for row in rows if row["check"] == "disk"]
    assert set(row) == {"service", "instance", "check", "kind", "state", "since", "output", "next_at"}
    assert row["output"] == f"disk of {INSTANCE}" and row["since"] < row["next_at"]
    assert checked.floor.instance(INSTANCE)["pid"] == pid
    assert checked.floor.run("health", "nobody").returncode == 2
    table = checked.floor.run("health").stdout
    assert "simd-alpha-1" in table and "disk of" in table, "the other host's are asked of its agent"


def test_a_check_that_fails_is_named_by_health_and_by_status_and_takes_the_registration_out(
    checked: Checked,
) -> None:
    floors.wait_for("registered as passing", lambda: _health(checked.registered()) == "passing")
    checked.verdict.write_text("2")
    floors.wait_for("critical", lambda: checked.state("disk") == "critical")
    assert checked.health("auditd")[0] == 1
    status = checked.floor.run("status", "-o", "json")
    assert status.returncode == 1
    assert any(
        f"{INSTANCE}: running, critical: check disk: disk of" in reason
        for reason in json.loads(status.stdout)["reasons"]
    )
    floors.wait_for("registered as critical, or no more", lambda: _health(checked.registered()) != "passing")
    floors.wait_for("taken out", lambda: checked.registered() is None)
    checked.verdict.write_text("0")
    floors.wait_for("registered again", lambda: _health(checked.registered()) == "passing")
    floors.wait_for("healthy", checked.floor.healthy)
    told = ["check.critical", "registration.withdrawn", "check.passing", "registration.restored"]
    floors.wait_for("events, once each", lambda: _events_of(checked, "disk") == told)


def test_a_check_that_hangs_forks_and_floods_delays_no_other_and_costs_the_daemon_nothing(
    checked: Checked,
) -> None:
    pid = checked.floor.instance(INSTANCE)["pid"]
    mark = checked.floor.site_dir / "hangs"
    checked.script("hang.sh", f"trap '' TERM; echo $$ >> {mark}; sleep 3601 & yes & wait")
    floors.wait_for("it hangs, again and again", lambda: len(_lines(mark)) >= 3)
    assert checked.state("disk") == "passing"
    floors.wait_for("it is critical", lambda: checked.state("hang") == "critical")
    assert any("killed" in row["output"] for row in checked.health(INSTANCE)[1] if row["check"] == "hang")
    assert checked.state("disk") == "passing" and checked.floor.instance(INSTANCE)["pid"] == pid
    checked.apply(SERVICES)
    floors.wait_for("healthy without the checks", checked.floor.healthy)
    floors.wait_for("nothing of it is left", lambda: not _running("sleep 3601"))


def _health(found: Registration | None) -> str:
    return found.health if found is not None else "none"


def _events_of(checked: Checked, check: str) -> list[str]:
    found: list[dict[str, Any]] = checked.floor.json("events", "-n", "1000")
    return [event["kind"] for event in found if event["fields"].get("check") == check]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _running(words: str) -> str:
    return subprocess.run(["pgrep", "-f", words], capture_output=True, text=True, check=False).stdout
