"""When a backup is due, how many stay, and that one which fails is said until one succeeds."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import anyio
import pytest

from controlplane import backup, daemon, model, store
from controlplane.backup import file, schedule, scheduled
from controlplane.errors import InvalidSettings
from controlplane.model import records
from controlplane.site import nouns, status
from controlplane.site.follower import Follower
from controlplane.store import Keys
from tests.support import stores

pytestmark = pytest.mark.anyio
KEYS = Keys("lab")
DAY_NS = 86_400 * 10**9
numbers = itertools.count()


def url() -> str:
    return f"memory://scheduled-{next(numbers)}"


async def filled(where: str) -> store.Store:
    client = store.connect(where)
    await client.put(KEYS.incarnation, b"1000")
    return client


def test_it_is_due_by_the_age_of_the_newest_whoever_took_it(tmp_path: Path) -> None:
    settings = schedule.Settings(tmp_path, every_s=3600)
    assert schedule.due_in_s(settings, "lab", 1e9) == 0
    (tmp_path / schedule.name("lab", int((1e9 - 1000) * 1e9))).touch()
    (tmp_path / schedule.name("other", int(1e9 * 1e9))).touch()
    assert schedule.due_in_s(settings, "lab", 1e9) == 2600
    assert schedule.due_in_s(settings, "lab", 1e9 + 2600) == 0
    assert schedule.due_in_s(settings, "lab", 1e9 - 10**6) == 3600, "a clock that was set back"
    assert schedule.due_in_s(schedule.Settings(tmp_path / "missing"), "lab", 1e9) == 0


def test_the_newest_stay_and_nothing_else_is_ever_deleted(tmp_path: Path) -> None:
    names = [schedule.name("lab", n * DAY_NS) for n in range(1, 8)]
    snapshots = [schedule.name("lab", n * DAY_NS, "etcd.db") for n in range(1, 8)]
    mine = ["lab-before-the-upgrade.hftbackup", "lab-2-" + names[0][4:], "notes.txt", f".{names[0]}.1.2"]
    for name in [*names, *snapshots, *mine]:
        (tmp_path / name).touch()
    schedule.trim(schedule.Settings(tmp_path, keep=5), "lab")
    assert {path.name for path in tmp_path.iterdir()} == {*names[-5:], *snapshots[-3:], *mine}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (schedule.EVERY, "hourly"),
        (schedule.EVERY, "0.5"),
        (schedule.EVERY, "-3"),
        (schedule.EVERY, "nan"),
        (schedule.KEEP, "0"),
        (schedule.KEEP, "2.5"),
        (schedule.KEEP, "1e9"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=name):
        schedule.of_environment({name: value}, tmp_path)


def test_settings_come_from_the_environment_and_have_defaults(tmp_path: Path) -> None:
    assert schedule.of_environment({}, tmp_path) == schedule.Settings(tmp_path / "backups", 3600.0, 24)
    said = {schedule.EVERY: "0", schedule.KEEP: "3", schedule.DIR: "/srv/backups"}
    assert schedule.of_environment(said, tmp_path) == schedule.Settings(Path("/srv/backups"), 0.0, 3)


async def test_one_that_fails_is_an_alarm_until_one_succeeds(tmp_path: Path) -> None:
    where, folder = url(), tmp_path / "backups"
    await filled(where)
    folder.write_text("in the way")
    one = backup.Scheduled(where, KEYS, schedule.Settings(folder, every_s=3600))
    assert await one.once() == schedule.RETRY_S_MAX
    [alarm] = one.alarms
    assert (alarm.id, alarm.severity, alarm.subject) == ("backup.failed", "warning", "lab")
    assert str(folder) in alarm.text and "there is none yet" in alarm.text
    await one.once()
    assert one.alarms[0].since_ns == alarm.since_ns, "it stands since then"
    folder.unlink()
    await one.once()
    assert one.alarms == ()
    [path] = schedule.kept(folder, "lab")
    with file.opened(path) as found:
        assert found.trailer.records == 1


async def test_only_the_elected_controller_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled, "LOOK_S", 0.01)
    monkeypatch.setattr(scheduled, "FIRST_S", 0.0)
    where, elected = url(), False
    await filled(where)
    one = backup.Scheduled(where, KEYS, schedule.Settings(tmp_path, every_s=3600, keep=2))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.run, lambda: elected)
        await anyio.sleep(0.2)
        assert not schedule.kept(tmp_path, "lab")
        elected = True
        await stores.until_true(lambda: bool(schedule.kept(tmp_path, "lab")))
        await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()
    assert len(schedule.kept(tmp_path, "lab")) == 1, "one an interval"
    assert time.time() - schedule.taken_s(schedule.kept(tmp_path, "lab")[0]) < 60


async def test_the_controllers_alarm_is_in_its_record_and_so_in_every_status(tmp_path: Path) -> None:
    where = url()
    client = await filled(where)
    controller = daemon.Controller("lab", client, Follower(client, KEYS))
    controller.url = "http://one"
    lease = await client.lease(5)
    controller.elected = await controller.hold(lease)
    (tmp_path / "backups").write_text("in the way")
    controller.backups = backup.Scheduled(where, KEYS, schedule.Settings(tmp_path / "backups"))
    await controller.backups.once()
    before = await client.get(KEYS.controller())
    assert await controller.hold(lease) and controller.elected
    entry = await client.get(KEYS.controller())
    assert entry is not None and before is not None
    found = model.decode(records.ControllerRecord, entry.value)
    assert found.alarms == controller.backups.alarms
    assert found.since_ns == model.decode(records.ControllerRecord, before.value).since_ns
    view = nouns.view_of(KEYS, await client.range(KEYS.root))
    shown = status.build(view, status.Now(0, await client.health()))
    assert [alarm.id for alarm in shown.alarms] == ["backup.failed"]
    await asyncio.sleep(0)
    assert await controller.hold(lease), "and it is not written again"
    assert (await client.get(KEYS.controller())) == entry
