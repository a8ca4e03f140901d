"""Pages that a daemon has filled with rubbish: what a keeper and an agent read of them, and what they say."""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents import health
from agents.bus import Reported
from agents.keeper import kept_process, liveness, pings, protocol, words
from agents.supervisor.runner import Running
from agents.supervisor.states import State
from agents.supervisor.supervisor import Instance
from controlplane.errors import InvalidInput
from controlplane.host import identity
from controlplane.leadership.group_view import Lead
from controlplane.model import Mode, Phase, Process, Slot
from hftd.shm import pages
from hftd.wire import codec, control

ME = identity.myself("omsd-alpha-1")
NOW_NS = 10**15
BODY = struct.Struct("<qqqQQQQ")
GOOD = (ME.pid, ME.start_time, NOW_NS, Phase.STANDBY.value, 0, 0, 0)


def page(*fields: int, sequence: int = 2) -> bytes:
    body = pages.ALIVE_MAGIC + sequence.to_bytes(8, "little") + BODY.pack(*fields)
    return body.ljust(pages.PAGE_BYTES, b"\0")


def changed(index: int, value: int) -> bytes:
    return page(*(value if n == index else field for n, field in enumerate(GOOD)))


RUBBISH = {
    "phase 6,": changed(3, 6),
    f"phase {2**64 - 1},": changed(3, 2**64 - 1),
    f"epoch {2**64 - 1},": changed(4, 2**64 - 1),
    f"heartbeat {2**63 - 1} ns": changed(2, 2**63 - 1),
    f"heartbeat {NOW_NS + 2 * 10**9} ns, 2 s ahead": changed(2, NOW_NS + 2 * 10**9),
    "heartbeat -1 ns": changed(2, -1),
    "cut or overwritten": b"\xff" * pages.PAGE_BYTES,
}


class Kept:
    """One process of a keeper without a keeper; its page is written as bytes, into the mapped file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.alive"
        self.path.write_bytes(page(*GOOD))
        entry = protocol.WantedProcess(
            ME, "omsd", Mode.ACTIVE_STANDBY, str(self.path), str(folder / "a.lease")
        )
        self.words = words.Words(folder / "a.lease", self.path)
        self.one = kept_process.KeptProcess(
            entry,
            None,
            self.words,
            liveness.Heartbeat(250_000_000),  # type: ignore[arg-type]
        )
        self.now_ns = NOW_NS

    def write(self, content: bytes, at: int = 0) -> None:
        fd = os.open(self.path, os.O_WRONLY)
        os.pwrite(fd, content, at)
        os.close(fd)

    def look(self, times: int = 1) -> bool:
        good = False
        for _ in range(times):
            self.now_ns += 25_000_000
            good = self.one.look(self.now_ns)
        return good


@pytest.mark.parametrize(("why", "content"), RUBBISH.items())
def test_rubbish_is_named_and_makes_a_process_stale_until_its_page_is_right(
    tmp_path: Path, why: str, content: bytes
) -> None:
    kept = Kept(tmp_path)
    assert kept.look() and kept.one.heartbeat.fresh
    kept.write(content)
    for beat in range(12):  # it goes on beating, for what that is worth
        if b"\xff" * 8 not in content[:8] and "heartbeat" not in why:
            kept.write((kept.now_ns + beat).to_bytes(8, "little"), at=32)
        assert not kept.look() and why in kept.words.damage
    assert not kept.one.heartbeat.fresh
    kept.write(page(*(kept.now_ns if n == 2 else field for n, field in enumerate(GOOD)), sequence=4))
    assert kept.look() and kept.one.heartbeat.fresh and not kept.words.damage


def test_a_page_that_names_another_process_makes_its_own_stale(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.look()
    kept.write(changed(0, ME.pid + 1))
    kept.look(12)
    assert not kept.one.heartbeat.fresh


def test_a_page_that_is_cut_ends_no_reader_and_is_stale(tmp_path: Path) -> None:
    """To touch a mapping beyond the file's end would be a SIGBUS."""
    kept = Kept(tmp_path)
    assert kept.look()
    for length in (128, 16, 0):
        os.truncate(kept.path, length)
        assert not kept.look(12) and "cut or overwritten" in kept.words.damage
    assert not kept.one.heartbeat.fresh
    kept.path.unlink()
    kept.path.write_bytes(page(*(kept.now_ns if n == 2 else field for n, field in enumerate(GOOD))))
    kept.look()
    assert kept.look() and kept.one.heartbeat.fresh, "made anew, as at a restart"


LEAD = Lead(ME, 1_700_000_000_000, 3)


@given(st.binary(min_size=240, max_size=240))
def test_no_bytes_in_a_heartbeat_page_raise(body: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(Path(folder))
        kept.write(body, at=16)
        kept.look(3)
        kept.write(body[:8], at=8)
        kept.look(2)
        kept.words.close()


@given(st.binary(min_size=240, max_size=240), st.integers(2, 2**62))
@example(b"\xff" * 240, 2**62)
def test_a_lease_page_of_rubbish_leads_nobody_and_is_written_again(body: bytes, half: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(Path(folder))
        kept.words.arm(LEAD, 500)
        assert kept.words.lease_path is not None
        with pages.LeasePage(kept.words.lease_path) as daemon:
            fd = os.open(kept.words.lease_path, os.O_WRONLY)
            os.pwrite(fd, body, 16)
            os.pwrite(fd, (2 * half).to_bytes(8, "little"), 8)
            os.close(fd)
            for word in (kept.words.lease(), daemon.read()):
                assert not word.leads(ME, 0) or word.process == ME
            assert not kept.words.armed_for(LEAD) and kept.words.closed_rank(ME) is None
            kept.words.arm(LEAD, 600)
            assert kept.words.armed_for(LEAD) and daemon.read().leads(ME, 599)
            with kept.words.lease_path.open("r+b") as file:
                file.seek(8)
                file.write(b"\xff" * 8)
            kept.words.arm(LEAD, 700)
            assert daemon.read().leads(ME, 699), "the sequence begins again"
        kept.words.close()


def test_a_lease_page_that_is_cut_is_made_anew_by_the_next_renewal(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.words.arm(LEAD, 500)
    assert kept.words.lease_path is not None
    os.truncate(kept.words.lease_path, 0)
    assert kept.words.lease() == pages.NOBODY
    kept.words.arm(LEAD, 600)
    assert kept.words.armed_for(LEAD)
    with pages.LeasePage(kept.words.lease_path) as daemon:
        assert daemon.read().valid_until_ns == 600


def test_a_list_of_standbys_with_what_no_process_is_is_refused(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    path = pages.electable_path(kept.path)
    one = '{"instance": "omsd-beta-1", "boot_id": "b", "pid": %s, "start_time": 1}'
    for content in (
        f"[{one % 10**30}]",
        f"[{one % 1}]".replace("omsd-beta-1", "x" * 5_000),
        f"[{','.join([one % 1] * (words.ELECTABLE_MAX + 1))}]",
        "[" + one % 1 + ', {"x": ' + "[" * 100_000,
    ):
        path.write_text(content)
        with pytest.raises(InvalidInput, match="electable: expected"):
            kept.words.electable()
    path.write_text(f"[{one % 1}]")
    assert kept.words.electable() == (Process("omsd-beta-1", "b", 1, 1),)
    assert pings.named(Process("omsd-beta-1", "b", 1, 1))


# --- what the agent says ------------------------------------------------------------------------------------


def observed(found: pages.Alive | str | None) -> tuple[str, str, str]:
    instance = Instance(Slot(ME.instance, "omsd", "alpha"), state=State.RUNNING)
    instance.running = Running(ME, ME, Path(), "", 1, 0, 1, (), -1)
    said = control.Status(codec.VERSION, 1, 0, ME.instance, None, True, "", "", 0, {}, {}, {}, [], True)
    status = health.observe(instance, Reported(ME, "omsd", "0", {}, b"", said, 100.0), found, 100.5, 0)
    return status.health, status.reason, status.phase


def test_an_instance_whose_page_is_not_believed_is_critical_with_the_value() -> None:
    good = pages.Alive(ME.pid, ME.start_time, 1, Phase.STANDBY, 0, 0, 0)
    assert observed(good) == ("passing", "", "standby")
    level, reason, _ = observed(None)
    assert level == "critical" and "page is gone" in reason, "it wrote one before it said hello"
    level, reason, phase = observed("a.alive: phase 99, which is none: they are 0 to 5")
    assert (level, phase) == ("critical", "starting") and "phase 99" in reason and "no lease" in reason
    level, reason, _ = observed(pages.Alive(7, 7, 1, Phase.ACTIVE, 9, 0, 0))
    assert level == "critical" and "names pid 7" in reason
