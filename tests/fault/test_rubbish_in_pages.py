"""A daemon writes rubbish into its own heartbeat page, or cuts its pages: it loses its lead; its keeper
lives, and leads, renews and hands over all others.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.keeper import protocol
from controlplane.model import Phase
from hftd.shm import pages
from tests.support.keepers import Daemon, Floor, run, until

BODY = struct.Struct("<qqqQQQQ")
MAX = 2**64 - 1


def filled(daemon: Daemon, now_ns: int, **fields: int) -> bytes:
    """A page that beats, but for these fields."""
    good = {
        "pid": daemon.process.pid,
        "start_time": daemon.process.start_time,
        "heartbeat": now_ns,
        "phase": Phase.ACTIVE.value,
        "epoch": daemon.lease().epoch,
        "seq": 0,
        "electable": 0,
    }
    return pages.ALIVE_MAGIC + (2).to_bytes(8, "little") + BODY.pack(*(good | fields).values())


Rubbish = Callable[[Daemon, int], bytes]
CHANCE = random.Random(1)
RUBBISH: dict[str, Rubbish] = {
    "phase": lambda daemon, now_ns: filled(daemon, now_ns, phase=99),
    "wildest phase": lambda daemon, now_ns: filled(daemon, now_ns, phase=MAX),
    "epoch": lambda daemon, now_ns: filled(daemon, now_ns, epoch=MAX),
    "beat from the future": lambda daemon, now_ns: filled(daemon, now_ns + 10**18 + CHANCE.randrange(10**6)),
    "beat before the boot": lambda daemon, now_ns: filled(daemon, -CHANCE.randrange(10**6) - 1),
    "another's pid": lambda daemon, now_ns: filled(daemon, now_ns, pid=1),
    "noise": lambda daemon, now_ns: CHANCE.randbytes(pages.PAGE_BYTES),
    "ones": lambda daemon, now_ns: b"\xff" * pages.PAGE_BYTES,
}


async def _filling(daemon: Daemon, floor: Floor, content: Rubbish, until_done: asyncio.Event) -> None:
    clock = floor.keepers["alpha"].clock
    fd = os.open(daemon.alive_path, os.O_WRONLY)
    try:
        while not until_done.is_set():
            os.pwrite(fd, content(daemon, clock.boot_ns()), 0)
            await asyncio.sleep(0.005)
    finally:
        os.close(fd)


async def _two_led(floor: Floor) -> tuple[Daemon, Daemon]:
    bad, good = floor.daemon("alpha"), floor.daemon("alpha", "riskd")
    keeper = await floor.keeper("alpha")
    keeper.apply(protocol.Table((bad.entry(), good.entry())))
    await until(lambda: bad.leads() and good.leads(), "both lead")
    return bad, good


@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish_in_one_heartbeat_page_costs_its_own_daemon_the_lead_and_nobody_else_anything(
    tmp_path: Path, kind: str
) -> None:
    async def case(floor: Floor) -> None:
        bad, good = await _two_led(floor)
        keeper = floor.keepers["alpha"]
        bad.kill(signal.SIGSTOP)  # its own loop would write over it
        done = asyncio.Event()
        filling = asyncio.create_task(_filling(bad, floor, RUBBISH[kind], done))
        held = good.lease().valid_until_ns
        await until(lambda: not bad.leads(), "its lease runs out")
        assert good.leads() and good.lease().epoch == 1
        await until(lambda: good.lease().valid_until_ns > held + 10**9, "the other is renewed as ever")
        assert not bad.leads() and not floor.tasks["alpha"].done()
        if kind != "another's pid":
            assert keeper.report().undecodable > 0
        done.set()
        await filling
        with bad.alive_path.open("r+b") as file:
            file.write(pages.ALIVE_MAGIC)  # of a page a daemon writes only what is behind it
        bad.kill(signal.SIGCONT)
        await until(bad.leads, "with a good page it leads again")
        assert good.lease().epoch == 1, "nobody moved it"

    run(tmp_path, case)


def test_a_frozen_daemon_whose_page_is_beaten_for_it_stays_leader(tmp_path: Path) -> None:
    """The test's own writing is good: it is the rubbish in the cases above that counts."""

    async def case(floor: Floor) -> None:
        bad, _ = await _two_led(floor)
        bad.kill(signal.SIGSTOP)
        done = asyncio.Event()
        filling = asyncio.create_task(_filling(bad, floor, filled, done))
        held = bad.lease().valid_until_ns
        await until(lambda: bad.lease().valid_until_ns > held + 2 * 10**9, "renewed for two seconds")
        done.set()
        await filling

    run(tmp_path, case)


def test_pages_that_are_cut_to_nothing_end_no_keeper(tmp_path: Path) -> None:
    """The daemon that has them mapped dies of it; here it is frozen, so that it does not even do that."""

    async def case(floor: Floor) -> None:
        bad, good = await _two_led(floor)
        bad.kill(signal.SIGSTOP)
        held = good.lease().valid_until_ns
        os.truncate(bad.alive_path, 0)
        os.truncate(bad.lease_path, 0)
        await until(lambda: good.lease().valid_until_ns > held + 2 * 10**9, "the other is renewed as ever")
        assert not floor.tasks["alpha"].done() and floor.keepers["alpha"].report().undecodable > 0
        bad.end()
        new = floor.daemon("alpha")
        pages.create(new.alive_path, pages.ALIVE_MAGIC)
        new.end()
        new = floor.daemon("alpha")
        floor.keepers["alpha"].apply(protocol.Table((new.entry(), good.entry())))
        await until(new.leads, "a new process leads")
        assert new.lease().epoch == 2 and good.lease().epoch == 1

    run(tmp_path, case)
