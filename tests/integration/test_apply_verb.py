"""`hftctl apply` and `diff` on a real floor: services come, change and go; hft-floord and its restart undo
none of it, and `hftctl up` says what its own file would change back.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane import store
from controlplane.floor import folders
from controlplane.model import ServiceSpec, records
from controlplane.model.specs import Tombstone
from controlplane.store import Keys
from tests.support import floors

KEYS = Keys("lab")
SERVICES = """\
services:
  - name: simd
    daemon: simd
    mode: singleton
    hosts: [alpha]
  - name: marketd
    daemon: marketd
    mode: singleton
    hosts: [alpha]
  - name: bookd
    daemon: bookd
    mode: singleton
    hosts: [beta]
  - name: riskd
    daemon: riskd
    mode: active_standby
    hosts: [beta]
    settings:
      messages_per_s: 200
  - name: positiond
    daemon: positiond
    mode: singleton
    hosts: [beta]
"""
AUDITD = """\
  - name: auditd
    daemon: auditd
    mode: singleton
    hosts: [beta]
"""
CHANGED = SERVICES.replace("messages_per_s: 200", "messages_per_s: 300") + AUDITD


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[floors.Floor]:
    with floors.floor(bring_up=False) as one:
        file(one, SERVICES, "own.yml")
        one.up("--services", str(one.site_dir / "own.yml"), "--seed", "7")
        yield one


def file(floor: floors.Floor, text: str, name: str = "other.yml") -> str:
    path = floor.site_dir / name
    path.write_text(text)
    return str(path)


def stored(floor: floors.Floor) -> dict[str, ServiceSpec | Tombstone]:
    url = folders.Folders(floor.site_dir).store_url()
    assert url is not None

    async def read() -> dict[str, ServiceSpec | Tombstone]:
        client = store.connect(url)
        try:
            entries = (await client.range(KEYS.specs)).entries
        finally:
            await client.close()
        return {
            key.removeprefix(KEYS.specs): records.decode_spec(entry.value) for key, entry in entries.items()
        }

    return asyncio.run(read())


def services(floor: floors.Floor) -> list[str]:
    return [service["name"] for service in floor.status()["services"]]


def operations(floor: floors.Floor) -> list[dict[str, Any]]:
    return [each for each in floor.status()["operations"] if each["kind"] == "apply"]


def test_a_service_is_added_and_changed_by_an_apply_and_who_and_why_are_kept(floor: floors.Floor) -> None:
    before, other = floor.pids(), file(floor, CHANGED)
    found = floor.run("diff", "-f", other)
    assert found.returncode == 1, found.stderr
    assert found.stdout.splitlines() == [
        "~ riskd.settings.messages_per_s: 200 -> 300",
        "+ auditd",
    ], "the seed of `up --seed` is no difference"
    assert floor.pids() == before, "a diff changes nothing"

    refused = floor.run("apply", "-f", other)
    assert refused.returncode == 1 and "--yes" in refused.stderr and "+ auditd" in refused.stdout
    assert "auditd" not in stored(floor), "there was nobody to agree"

    done = floor.run("apply", "-f", other, "--yes", "--reason", "more limits")
    assert done.returncode == 0, done.stdout + done.stderr
    after = floor.pids()
    assert {name: after[name] for name in before} == before, "a limit reaches the daemon that runs"
    floors.wait_for("it is in force", lambda: floor.instance("riskd-beta-1")["config_revision"] == 2)
    assert floor.instance("auditd-beta-1")["ready"] and floor.healthy()
    newest = operations(floor)[0]
    assert (newest["state"], newest["reason"]) == ("succeeded", "more limits") and newest["actor"]

    assert floor.run("diff", "-f", other).returncode == 0
    again = floor.run("apply", "-f", other, "--yes")
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert floor.pids() == after and operations(floor)[0] == newest


def test_what_was_applied_survives_hft_floord_and_its_restart_and_up_shows_what_it_changes_back(
    floor: floors.Floor,
) -> None:
    assert floor.run("apply", "-f", file(floor, CHANGED), "--yes").returncode == 0
    before, applied = floor.pids(), stored(floor)
    os.kill(floor.parent()["floord"]["pid"], signal.SIGKILL)
    lock = folders.Folders(floor.site_dir).floor_lock
    floors.wait_for("the lock goes with its holder", lambda: not folders.locked(lock))
    other = floor.run("apply", "-f", file(floor, CHANGED.replace("300", "400")), "--yes", "--no-wait")
    assert other.returncode == 0, "an apply needs no hft-floord"
    assert floor.run("apply", "-f", file(floor, CHANGED), "--yes", "--no-wait").returncode == 0

    adopted = floor.run("up", "--detach", "--services", str(floor.site_dir / "other.yml"), "--timeout", "90")
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    assert stored(floor) == applied
    now = floor.pids()
    assert {name for name in before if before[name] != now[name]} <= {"riskd-beta-1"}

    back = floor.run("up", "--detach", "--services", str(floor.site_dir / "own.yml"))
    assert back.returncode == 0, back.stderr
    assert "~ riskd.settings.messages_per_s: 300 -> 200" in back.stdout and "- auditd" in back.stdout
    assert services(floor) == ["bookd", "marketd", "positiond", "riskd", "simd"]


def test_a_setting_changed_in_the_store_stays_until_a_side_is_named(floor: floors.Floor) -> None:
    assert floor.run("up", "--detach", "--services", str(floor.site_dir / "own.yml")).returncode == 0
    done = floor.run("config", "set", "riskd", "open_orders_max=500", "--reason", "a loss")
    assert done.returncode == 0, done.stdout + done.stderr
    pid, newest = floor.pids()["riskd-beta-1"], operations(floor)[0]
    again = floor.run("up", "--detach")
    assert again.returncode == 0 and operations(floor)[0] == newest, "the same file writes nothing"

    other = file(
        floor, SERVICES.replace("messages_per_s: 200", "messages_per_s: 250\n      open_orders_max: 800")
    )
    for verb in (["diff", "-f", other], ["apply", "-f", other, "--yes"], ["up", "--services", other, "-d"]):
        refused = floor.run(*verb)
        assert refused.returncode == 1, refused.stdout + refused.stderr
        said = refused.stdout + refused.stderr
        assert "! riskd.settings.open_orders_max: changed on both sides: the file had 10000" in said
        assert "has 800 now, the store has 500, revision" in said and "a loss" in said
    settled = floor.run("apply", "-f", other, "--yes", "--settings", "store")
    assert settled.returncode == 0, settled.stdout + settled.stderr
    assert "= riskd.settings.open_orders_max: 500 stays, as in the store" in settled.stdout
    assert floor.run("diff", "-f", other).returncode == 0

    wanted = floor.instance("riskd-beta-1")["config_wanted"]
    last = floor.run("up", "--detach", "--services", str(floor.site_dir / "own.yml"), "--settings", "file")
    assert last.returncode == 0, last.stdout + last.stderr
    assert "~ riskd.settings.open_orders_max: 500 -> 10000" in last.stdout
    floors.wait_for(
        "the file's limits are in force",
        lambda: floor.instance("riskd-beta-1")["config_revision"] == wanted + 1,
    )
    assert floor.pids()["riskd-beta-1"] == pid


def test_a_removed_service_is_stopped_and_its_tombstone_ends_with_it(floor: floors.Floor) -> None:
    assert floor.run("apply", "-f", file(floor, CHANGED), "--yes").returncode == 0
    pid = floor.instance("auditd-beta-1")["pid"]
    os.kill(pid, signal.SIGSTOP)  # it cannot stop yet
    try:
        removed = floor.run(
            "apply", "-f", file(floor, SERVICES), "--yes", "--no-wait", "--reason", "not needed"
        )
        assert removed.returncode == 0 and "- auditd" in removed.stdout
        tombstone = stored(floor)["auditd"]
        assert isinstance(tombstone, Tombstone)
        assert (tombstone.reason, tombstone.hosts) == ("not needed", ("beta",)) and tombstone.by
        floors.wait_for("no longer desired", lambda: "auditd" not in services(floor))
    finally:
        os.kill(pid, signal.SIGCONT)
    floors.wait_for("the tombstone has ended", lambda: "auditd" not in stored(floor))
    floors.wait_for("the process is gone", lambda: not Path(f"/proc/{pid}").exists())
    floors.wait_for("riskd, whose spec changed too, is back", floor.healthy)


def test_a_service_that_is_named_again_while_it_stops_comes_back(floor: floors.Floor) -> None:
    changed, own = file(floor, CHANGED), file(floor, SERVICES, "less.yml")
    assert floor.run("apply", "-f", changed, "--yes").returncode == 0
    assert floor.run("apply", "-f", own, "--yes", "--no-wait").returncode == 0
    again = floor.run("apply", "-f", changed, "--yes")
    assert again.returncode == 0, again.stdout + again.stderr
    assert floor.instance("auditd-beta-1")["ready"]
    assert isinstance(stored(floor)["auditd"], ServiceSpec)


def test_what_cannot_be_applied_is_refused_and_changes_nothing(floor: floors.Floor, tmp_path: Path) -> None:
    before = stored(floor)
    bad = file(floor, SERVICES.replace("daemon: bookd", "daemon: bokd"))
    for verb in (("diff",), ("apply", "--yes")):
        done = floor.run(*verb, "-f", bad)
        assert done.returncode == 2 and f"{bad}:11: services[2].daemon" in done.stderr
    elsewhere = floors.Floor(tmp_path / "site")
    good = file(floor, SERVICES)
    for verb in (("diff",), ("apply", "--yes")):
        done = elsewhere.run(*verb, "-f", good)
        assert done.returncode == 3 and "no floor runs in" in done.stderr
    assert stored(floor) == before


def test_an_earlier_hftctls_site_folder_comes_up(tmp_path: Path) -> None:
    """Its desired.json has the services too; they are in the store already, and only that counts."""
    with floors.floor(bring_up=False) as one:
        own = file(one, SERVICES)
        site = folders.Folders(one.site_dir)
        earlier = {
            "site": "lab",
            "services_file": own,
            "overrides": {"simd": {"seed": 9}},
            "specs": [{"name": "gone", "daemon": "bokd", "mode": "singleton", "hosts": ["alpha"]}],
            "http_port": 0,
        }
        site.desired_json.write_text(json.dumps(earlier))
        one.up("--services", own)
        assert services(one) == ["bookd", "marketd", "positiond", "riskd", "simd"]
        assert not site.desired_json.exists() and "services" not in json.loads(site.run_json.read_text())
        site.desired_json.write_text(json.dumps(earlier))
        site.run_json.unlink()  # as the running floor of an earlier hftctl looks
        refused = one.run("up", "--detach")
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1
        assert "started by an earlier hftctl: hftctl down ends it" in refused.stderr
