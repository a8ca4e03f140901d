"""Fault: a bit of omsd's journal is flipped while it is down. It says what it lacks, leads nobody before it
has that from its leader, and then it is whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.model import Phase
from hftd.storage import damage
from hftd.storage.journal import Journal
from hftd.wire.orders import OrderState
from tests.support import order_path
from tests.support.order_path import OrderPath
from tests.support.order_stage import active, electable, standby


@pytest.fixture
def path() -> Iterator[OrderPath]:
    with tempfile.TemporaryDirectory(prefix="hft-") as folder:
        yield from order_path.path(Path(folder))


def folder_of(path: OrderPath, instance: str) -> Path:
    return path.folder / "data" / instance / "journal"


def trade(path: OrderPath, count: int) -> None:
    for _ in range(count):
        name = path.riskd.place()
        path.until("it works", lambda name=name: path.riskd.states(name) == [OrderState.WORKING])


def flip(folder: Path, share: float) -> None:
    """One bit of the only segment, so far into it."""
    (segment,) = folder.glob("0*.journal")
    content = bytearray(segment.read_bytes())
    content[int(len(content) * share)] ^= 4
    segment.write_bytes(content)


def content(folder: Path) -> list[tuple[int, int, bytes]]:
    journal = Journal(folder)
    found = [tuple(record) for record in journal.read()]
    journal.close()
    return found


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_damaged_journal_is_made_whole_by_the_leader_before_its_owner_may_lead(
    path: OrderPath, share: float
) -> None:
    alpha = active(path)
    beta = standby(path)
    trade(path, 30)
    path.until("beta has all", lambda: alpha.ask("orders") == beta.ask("orders"))
    alpha.kill(clean=True)
    flip(folder_of(path, "omsd-alpha-1"), share)
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    beta.lead(2)
    path.until("beta leads", lambda: beta.phase is Phase.ACTIVE and path.riskd.epoch == 2)

    again = path.start("omsd-alpha-1")
    assert not again.context.ready and "lacks records" in again.context.reason
    alarm = again.context.alarms["journal_damaged"]
    (said,) = again.happened("journal.damaged")
    assert alarm.severity == "critical" and f"{said['records']} whole records" in alarm.text
    assert f"in the {said['bytes']} bytes from there on" in alarm.text and said["records"] > 1
    path.introduce(omsd_leader="omsd-beta-1", epoch=2)
    path.until("it is whole", lambda: again.context.ready)
    assert again.happened("journal.healed") and "journal_damaged" not in again.context.alarms
    path.until("it is electable", lambda: electable(beta) == ["omsd-alpha-1"])
    path.until("their orders are the same", lambda: again.ask("orders") == beta.ask("orders"))
    again.kill(clean=True)
    beta.kill(clean=True)
    folder = folder_of(path, "omsd-alpha-1")
    assert content(folder) == content(folder_of(path, "omsd-beta-1"))
    assert list(folder.glob("damaged-*")) and not (folder / damage.NOTE).exists()


def test_a_damaged_journal_that_nobody_can_make_whole_waits_for_a_person(path: OrderPath) -> None:
    alpha = active(path)
    trade(path, 10)
    alpha.kill(clean=True)
    folder = folder_of(path, "omsd-alpha-1")
    flip(folder, 0.5)
    for _ in range(2):
        again = path.start("omsd-alpha-1")
        path.introduce()
        path.turn()
        assert not again.context.ready, "over a restart too"
        assert f"delete {folder / damage.NOTE} and restart" in again.context.alarms["journal_damaged"].text
        again.kill(clean=True)
    (folder / damage.NOTE).unlink()
    again = path.start("omsd-alpha-1")
    path.introduce()
    assert again.context.ready and "journal_damaged" not in again.context.alarms
    again.lead(2)
    path.until("it leads", lambda: again.phase is Phase.ACTIVE and path.riskd.epoch == 2)
    trade(path, 1)
