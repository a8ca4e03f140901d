"""The keeper's parts by themselves: heartbeats, words, disk, pings, table lines, the settings' promises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agents.keeper import liveness, protocol, settings, words
from agents.keeper.seen_tokens import SeenTokens
from controlplane.errors import InvalidInput
from controlplane.leadership.group_view import Group, Lead
from controlplane.model import Phase, Process, records
from hftd.shm import pages
from hftd.shm.pages import Wanted

ALPHA = Process("omsd-alpha-1", "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f", 10, 100)
BETA = Process("omsd-beta-1", "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f", 20, 100)
LEAD = Lead(ALPHA, 1000, 3)
MS = 1_000_000
NOW_NS = 1000 * MS


# --- heartbeat ----------------------------------------------------------------------------------------------


def test_a_heartbeat_is_stale_after_the_grace_and_fresh_again_at_the_next_beat() -> None:
    heartbeat = liveness.Heartbeat(250 * MS)
    assert not heartbeat.fresh
    for now_ms in range(0, 250, 10):
        heartbeat.look(7, now_ms * MS)
        assert heartbeat.fresh, now_ms
    heartbeat.look(7, 250 * MS)
    assert not heartbeat.fresh
    heartbeat.look(8, 260 * MS)
    assert heartbeat.fresh


def test_time_in_which_the_keeper_itself_did_not_run_does_not_count() -> None:
    heartbeat = liveness.Heartbeat(250 * MS)
    heartbeat.look(7, 0)
    heartbeat.look(7, 60_000 * MS)  # the machine was stopped for a minute
    assert heartbeat.fresh


# --- words --------------------------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path: Path) -> words.Words:
    pages.create(tmp_path / "a.alive", pages.ALIVE_MAGIC)
    return words.Words(tmp_path / "a.lease", tmp_path / "a.alive")


def test_a_deadline_only_moves_forward(found: words.Words) -> None:
    """An answer that arrives out of order does not take back what was rightly granted."""
    found.arm(LEAD, 500)
    found.arm(LEAD, 400)
    assert found.lease().valid_until_ns == 500
    found.arm(Lead(ALPHA, 1000, 4), 450)
    assert (found.lease().epoch, found.lease().valid_until_ns) == (4, 450)


def test_a_closed_word_says_so_to_the_next_keeper(found: words.Words) -> None:
    found.arm(LEAD, 500)
    found.hand_over(LEAD)
    assert (found.lease().wanted, found.lease().valid_until_ns) == (Wanted.HAND_OVER, 0)
    again = words.Words(found.lease_path, found.alive_path)
    assert (
        again.closed_rank(ALPHA) == (1000, 3)
        and again.closed_rank(BETA) is None
        and not again.armed_for(LEAD)
    )


def test_an_existing_word_is_kept(tmp_path: Path, found: words.Words) -> None:
    """A restarted keeper finds what the last one wrote, and the daemon goes on reading the same file."""
    found.arm(LEAD, 500)
    with pages.LeasePage(tmp_path / "a.lease") as daemon:
        words.Words(tmp_path / "a.lease", tmp_path / "a.alive").arm(LEAD, 600)
        assert daemon.read().valid_until_ns == 600


def test_an_alive_word_counts_only_when_it_is_this_processs_own(tmp_path: Path, found: words.Words) -> None:
    assert found.alive(ALPHA, NOW_NS) is None
    pages.create(tmp_path / "a.alive", pages.ALIVE_MAGIC)  # made anew, as at a restart
    with pages.HeartbeatPage(tmp_path / "a.alive", writable=True) as daemon:
        daemon.write(pages.Alive(ALPHA.pid, ALPHA.start_time, 5, Phase.ACTIVE, 3, 0, 0))
    assert found.alive(BETA, NOW_NS) is None
    alive = found.alive(ALPHA, NOW_NS)
    assert alive and alive.phase is Phase.ACTIVE


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'[{"instance": 3}]'])
def test_a_list_of_standbys_that_is_none_is_refused(
    tmp_path: Path, found: words.Words, content: bytes
) -> None:
    pages.electable_path(tmp_path / "a.alive").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"electable: expected a list of processes"):
        found.electable()


# --- disk ---------------------------------------------------------------------------------------------------


def group(incarnation: int, epoch: int) -> Group:
    return Group("omsd", incarnation=incarnation, epoch=records.EpochRecord(incarnation, epoch))


def test_the_disk_keeps_the_highest_token(tmp_path: Path) -> None:
    disk = SeenTokens(tmp_path / "keeper.json")
    for seen in [(1000, 3), (1000, 2), (2000, 1), (1000, 9)]:
        disk.raise_to(group(*seen))
    disk.save(disk.content())
    assert SeenTokens(tmp_path / "keeper.json").highest("omsd") == (2000, 1)
    assert SeenTokens(tmp_path / "keeper.json").highest("never seen") == (2000, 0)
    assert not disk.dirty


# --- the agent's lines --------------------------------------------------------------------------------------


def test_a_table_is_read_as_the_agent_writes_it() -> None:
    table = protocol.decode_table(
        b'{"instances": [{"process": {"instance": "omsd-alpha-1", "boot_id": "b", "pid": 1, "start_time": '
        b'2}, "service": "omsd", '
        b'"mode": "active_standby", "lease": "/r/l", "alive": "/r/a", "registration": null, "fences": '
        b'["execd"], "home_ok": true, "newer": 1}]}'
    )
    entry = table.instances[0]
    assert (entry.service, entry.lease, entry.fences, entry.registration, table.profile) == (
        "omsd",
        "/r/l",
        ("execd",),
        None,
        "default",
    )


PROCESS = '{"instance": "i", "boot_id": "b", "pid": 1, "start_time": 2}'
ROW = '{"instances": [{"process": %s, "service": "omsd", "mode": "singleton", "alive": "/r/a"}]}'


@pytest.mark.parametrize(
    "line",
    [
        (ROW % PROCESS).replace('"pid": 1', f'"pid": {10**30}'),
        (ROW % PROCESS).replace('"pid": 1', '"pid": -1'),
        (ROW % PROCESS).replace('"start_time": 2', f'"start_time": {2**63}'),
        (ROW % PROCESS).replace('"i"', '"' + "i" * 5_000 + '"'),
        (ROW % PROCESS).replace("/r/a", "r/a"),
        (ROW % PROCESS).replace("/r/a", "/r/\\u0000a"),
        (ROW % PROCESS).replace("/r/a", "/" * 5_000),
    ],
)
def test_a_table_with_values_of_no_process_is_refused_before_any_of_it_is_taken(line: str) -> None:
    protocol.decode_table((ROW % PROCESS).encode())
    with pytest.raises(InvalidInput, match=r"^table: "):
        protocol.decode_table(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        b'{"undecodable": -1}',
        b'{"unauthenticated": {"forged": 1e400}}',
        b'{"undecodable": 1%s}' % (b"0" * 40),
    ],
)
def test_counts_of_a_keeper_that_no_count_can_be_are_refused(line: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^keeper: "):
        protocol.decode_from_keeper(line)


def test_a_fifo_in_place_of_a_page_makes_no_keeper_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "b.alive")
    assert words.Words(None, tmp_path / "b.alive").alive(ALPHA, NOW_NS) is None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"\xff\n",
        b'{"instances": [{"process": {"instance": "i", "boot_id": "b", "pid": 1, "start_time": 2}, '
        b'"service": "omsd", '
        b'"mode": "active_standby", "lease": null, "alive": "/r/a"}]}',
    ],
)
def test_a_line_that_is_no_table_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidInput, match="table: "):
        protocol.decode_table(line)


def test_a_stale_heartbeat_is_noticed_well_before_the_renew_deadline() -> None:
    chosen = settings.Settings()
    assert chosen.heartbeat_stale_s < chosen.budget.renew_deadline_s / 2
    assert chosen.ping_every_s * 2 <= chosen.ping_fresh_s
    assert chosen.registration_keep_s * 3 <= chosen.registration_ttl_s
