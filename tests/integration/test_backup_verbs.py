"""`hftctl backup` and `hftctl restore` on real floors: a site that moves from Consul to etcd and back and
goes on trading, and a restore that is killed in the middle.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from controlplane import store
from controlplane.backup import file, native, schedule
from controlplane.errors import HftctlError
from controlplane.floor import consul, etcd, store_alone
from controlplane.floor import folders as site_folders
from controlplane.store import Keys
from controlplane.store.consul import ConsulStore
from tests.support import consul_servers, floors, servers
from tests.support.floors import Floor, wait_for

pytestmark = pytest.mark.timeout(300)
KEYS = Keys("lab")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    try:
        return {"HFT_ETCD": str(servers.etcd()), "HFT_CONSUL": str(consul_servers.consul())}
    except servers.NoServer as exc:
        pytest.skip(str(exc))


def incarnation(floor: Floor) -> int:
    return int(store_value(floor, KEYS.incarnation))


def store_value(floor: Floor, key: str) -> bytes:
    """Of the running floor's store."""

    async def ask() -> bytes:
        url = site_folders.Folders(floor.site_dir).store_url()
        assert url is not None
        client = store.connect(url)
        try:
            entry = await client.get(key)
            assert entry is not None, key
            return entry.value
        finally:
            await client.close()

    return asyncio.run(ask())


def refused(floor: Floor, *words: str) -> str:
    done = floor.run(*words)
    lines = [line for line in done.stderr.splitlines() if "started for this alone" not in line]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def go_on(floor: Floor, kind: str, history: list[dict[str, Any]]) -> int:
    """Bring it up on what was restored; returns the incarnation. It trades, and all that it had is there."""
    done = floor.run("up", "--detach", timeout_s=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differs from what is applied" not in done.stdout, "its specs came with it"
    status = floor.status()
    assert status["healthy"] and status["store"]["kind"] == kind
    floor.trades()
    wait_for("positions equal to the venue's", floor.settled, pause_s=0.3)
    assert floor.json("history", "omsd")[: len(history)] == history
    return incarnation(floor)


def test_a_floor_moves_from_consul_to_etcd_and_back_and_goes_on_trading(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with floors.floor("--store", "consul", environment=environment, without=["HFT_TEST_STORE"]) as floor:
        floor.trades()
        done = floor.json("failover", "omsd", "--reason", "before the move")
        assert done["outcome"] == "succeeded"
        wait_for("healthy again", floor.healthy)
        wait_for("the history to be complete", lambda: complete(floor))
        for words in (("riskd", "max_position=900"), ("/desk", "two")):
            assert floor.run("config", "set", *words, "--reason", "before the move").returncode == 0
        before, history = incarnation(floor), floor.json("history", "omsd")
        operation = done["operation"]
        configured = floor.json("config", "history", "riskd")
        assert [row["revision"] for row in configured] == [1, 2]

        one = tmp_path / "one.hftbackup"
        assert floor.run("backup", str(one)).returncode == 0
        line = refused(floor, "restore", str(one))
        assert "it runs in this store" in line and "host alpha" in line
        assert "runs with consul" in refused(floor, "restore", str(one), "--store", "etcd")
        assert 'is of site "lab"' in refused(floor, "backup", str(tmp_path / "no"), "--site", "east")
        assert floor.healthy() and incarnation(floor) == before, "nothing was changed"

        assert floor.run("down").returncode == 0
        two = tmp_path / "two.hftbackup"
        assert floor.json("backup", str(two))["store"] == "consul", "of a floor that is down"
        for content in (two.read_bytes()[:-10], two.read_bytes().replace(b"specs/omsd", b"specs/omsx")):
            bad = tmp_path / "bad"
            bad.write_bytes(content)
            assert str(bad) in refused(floor, "restore", str(bad), "--store", "etcd")
        moved = floor.json("restore", str(two), "--store", "etcd", "--reason", "to etcd")
        assert moved["incarnation"] > before and not floors.processes_of(floor.site_dir)
        assert go_on(floor, "etcd", history) == moved["incarnation"]
        assert in_force(floor) and floor.json("config", "history", "riskd") == configured
        assert json.loads(store_value(floor, KEYS.operation(operation)))["state"] == "succeeded"

        three = tmp_path / "three.hftbackup"
        assert floor.run("backup", str(three)).returncode == 0, "of a floor that runs"
        assert floor.run("down").returncode == 0
        back = floor.json("restore", str(three), "--store", "consul")
        assert back["incarnation"] > moved["incarnation"]
        assert go_on(floor, "consul", history) == back["incarnation"]
        assert in_force(floor) and floor.json("config", "history", "riskd") == configured
        assert json.loads(store_value(floor, KEYS.operation(operation)))["state"] == "succeeded"
        assert json.loads(store_value(floor, KEYS.operation(moved["operation"])))["reason"] == "to etcd"
        verified = floor.run("audit", "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr


def in_force(floor: Floor) -> bool:
    """What was configured before the move is what riskd runs with."""
    found = floor.json("config", "get", "riskd")
    assert (found["revision"], found["document"]["max_position"]) == (2, "900"), found
    assert floor.json("config", "get", "/desk")["value"] == "two"
    return bool(found["in_force"] == {"riskd-alpha-1": 2})


def complete(floor: Floor) -> bool:
    return all(row["took_ms"] is not None for row in floor.json("history", "omsd"))


@pytest.mark.parametrize("kind", ["etcd", "consul"])
def test_a_restore_that_is_killed_half_way_is_run_again_and_nothing_starts_meanwhile(
    kind: str, environment: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "many.hftbackup"
    with file.writing(path, file.Header(site="lab", taken_ns=1)) as out:
        out.add("incarnation", b"1700000000000")
        for n in range(30_000):
            out.add(f"config/x/{n:06d}", b"x" * 200)
    with floors.floor(environment=environment, without=["HFT_TEST_STORE"], bring_up=False) as floor:
        words = [*floors.HFTCTL, "restore", str(path), "--store", kind]
        began = site_folders.Folders(floor.site_dir).log(kind)
        with subprocess.Popen(words, env=floor.environment, stderr=subprocess.PIPE) as restore:
            wait_for("the restore to be under way", lambda: half(floor, kind) or restore.poll() is not None)
            os.kill(restore.pid, signal.SIGKILL)
        assert restore.returncode == -signal.SIGKILL, "it was over before it could be killed"
        assert began.exists()
        wait_for("its store to end with it", lambda: not floors.processes_of(floor.site_dir))

        done = floor.run("up", "--detach", "--store", kind, timeout_s=180)
        assert done.returncode != 0 and f"hftctl restore {path}" in done.stderr, done.stderr
        assert "has not come to its end" in done.stderr
        wait_for("nothing to be left of it", lambda: not floors.processes_of(floor.site_dir))

        again = floor.json("restore", str(path), "--store", kind)
        assert again["records"] == 30_001 and again["incarnation"] > 1_700_000_000_000
        done = floor.run("up", "--detach", timeout_s=180)
        assert done.returncode == 0, done.stderr
        assert floor.status()["store"]["kind"] == kind


def half(floor: Floor, kind: str) -> bool:
    """Some of it is in the store by now: asked over the socket of the store that runs for the restore."""
    run_dir = site_folders.Folders(floor.site_dir).run_dir()
    said: dict[str, Any] = {"kind": kind, "endpoints": [f"unix:{run_dir / etcd.CLIENT_SOCKET}"]}
    if kind == "consul":
        token = floor.site_dir / consul.FOLDER / consul.TOKEN
        said = {"kind": kind, "endpoints": [f"unix:{run_dir / consul.SOCKET}"], "token_file": str(token)}
        if not token.exists():
            return False

    async def ask() -> bool:
        client = store.connect(site_folders.url_of(said))
        try:
            return await client.get(f"{KEYS.root}config/x/002000") is not None
        except HftctlError:
            return False
        finally:
            await client.close()

    return asyncio.run(ask())


def test_a_backup_into_an_empty_site_folder_makes_it_that_floor(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The site folder was lost, and with it the store: what is left is the backup."""
    one = tmp_path / "one.hftbackup"
    with floors.floor("--store", "etcd", environment=environment, without=["HFT_TEST_STORE"]) as floor:
        assert floor.run("backup", str(one)).returncode == 0
        floor_id = (floor.site_dir / "floor.id").read_text()
        assert floor.run("down").returncode == 0
    with floors.floor(environment=environment, without=["HFT_TEST_STORE"], bring_up=False) as other:
        assert "none ever has" in other.run("backup").stderr
        assert other.run("restore", str(one)).returncode == 0
        assert (other.site_dir / "floor.id").read_text() == floor_id
        done = other.run("up", "--detach", timeout_s=180)
        assert done.returncode == 0, done.stderr
        assert other.healthy()


@pytest.mark.parametrize("kind", ["etcd", "consul"])
def test_the_elected_controller_takes_them_and_says_when_it_cannot(
    kind: str, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    said = environment | {"HFT_BACKUP_EVERY_S": "2", "HFT_BACKUP_KEEP": "3", "HFT_BACKUP_DIR": str(folder)}
    with floors.floor("--store", kind, environment=said, without=["HFT_TEST_STORE"]) as floor:
        first = wait_for("a backup", lambda: schedule.kept(folder, "lab"))[0]
        ending = native.ENDINGS[kind]
        snapshots = wait_for("the store's own snapshot", lambda: schedule.kept(folder, "lab", ending))
        assert snapshots[0].stat().st_mode & 0o777 == 0o600
        wait_for("the oldest to go", lambda: not first.exists())
        assert 1 <= len(schedule.kept(folder, "lab")) <= 4
        newest = schedule.kept(folder, "lab")[-1]
        with file.opened(newest) as found:
            assert f"{KEYS.root}{next(iter(found.records())).key}".startswith(KEYS.root)

        aside = folder.rename(tmp_path / "aside")
        folder.write_text("in the way")

        def failing() -> list[dict[str, Any]]:
            return [alarm for alarm in floor.status()["alarms"] if alarm["id"] == "backup.failed"]

        [alarm] = wait_for("the alarm", failing, pause_s=0.3)
        assert str(folder) in alarm["text"] and alarm["severity"] == "warning"
        assert floor.healthy(), "no trading hangs on it"
        folder.unlink()
        aside.rename(folder)
        wait_for("the end of the alarm", lambda: not failing(), pause_s=0.3)


def test_a_floor_moves_into_a_store_that_is_there_already(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """And a second floor's backup does not get over it, nor does the first one while it runs there."""
    one, other_s = tmp_path / "one.hftbackup", tmp_path / "other.hftbackup"
    with (
        consul_servers.running(consul_servers.consul()) as server,
        floors.floor("--store", "etcd", environment=environment, without=["HFT_TEST_STORE"]) as floor,
    ):
        there = ["--store-endpoints", f"consul://{server.endpoint}"]
        before = incarnation(floor)
        assert floor.run("down").returncode == 0
        assert floor.run("backup", str(one)).returncode == 0
        moved = floor.json("restore", str(one), *there)
        assert moved["store"] == "consul" and moved["incarnation"] > before
        assert not floors.processes_of(floor.site_dir), "nothing was started for it"

        with file.opened(one) as found, file.writing(other_s, another(found.header)) as out:
            for record in found.records():
                out.add(record.key, record.value)
        with floors.floor(environment=environment, without=["HFT_TEST_STORE"], bring_up=False) as other:
            assert "--force replaces it" in refused(other, "restore", str(other_s), *there)

        assert go_on(floor, "consul", []) == moved["incarnation"]
        assert not {"etcd", "consul"} & set(floor.parent()["processes"])
        assert "it runs in this store" in refused(floor, "restore", str(one))
        # By force: every leader stops, and leads again above all that was.
        forced = floor.json("restore", str(one), "--force")
        assert forced["incarnation"] > moved["incarnation"]
        wait_for("healthy again", floor.healthy)
        floor.trades()
        wait_for("positions equal to the venue's", floor.settled, pause_s=0.3)
        assert incarnation(floor) == forced["incarnation"]


def another(header: file.Header) -> file.Header:
    return structs.replace(header, floor="f" * 32)


def test_after_consuls_own_restore_the_keepers_disks_raise_the_incarnation(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The guard that is left: docs/operations.md says where it ends."""
    snapshot = tmp_path / "one.snap"

    async def of_store(url: str, *, back: bool) -> None:
        client = store.connect(url)
        client.try_within(30)
        try:
            if back:
                assert isinstance(client, ConsulStore)
                content = await asyncio.to_thread(snapshot.read_bytes)
                await client.calls.ask("PUT", "snapshot", body=content, good=frozenset({200}))
            else:
                await native.take(client, snapshot)
        finally:
            await client.close()

    with floors.floor("--store", "consul", environment=environment, without=["HFT_TEST_STORE"]) as floor:
        folders = site_folders.Folders(floor.site_dir)
        url = folders.store_url()
        assert url is not None
        before = incarnation(floor)
        asyncio.run(of_store(url, back=False))
        assert floor.json("failover", "omsd", "--reason", "after the snapshot")["outcome"] == "succeeded"
        wait_for("healthy again", floor.healthy)
        assert floor.run("down").returncode == 0
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("HFT_CONSUL", environment["HFT_CONSUL"])
            with store_alone.running(folders, "consul", "test", lambda text: None) as alone:
                asyncio.run(of_store(alone, back=True))
        done = floor.run("up", "--detach", timeout_s=180)
        assert done.returncode == 0, done.stderr
        assert "it went back" in done.stdout
        assert incarnation(floor) > before
        floor.trades()
        wait_for("positions equal to the venue's", floor.settled, pause_s=0.3)
