"""State files of agent and keeper that are cut, garbage or impossible: set aside, named, and rebuilt by the
rules.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest

from agents.events import RING_MAX, Events
from agents.http import listening
from agents.keeper import seen_tokens, witnesses
from agents.keeper.seen_tokens import SeenTokens
from agents.last_specs import LastSpecs
from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.leadership.group_view import Group
from controlplane.model import Process, Token, bounds, records
from hftd.shm import fence_file, pages

GOOD = b'{"incarnation":1000,"floors":{"omsd":{"incarnation":1000,"epoch":7}}}'
BAD = [
    *(GOOD[:length] for length in (0, 1, 17, len(GOOD) - 1)),
    b"\0" * 512,
    b"\xff\xfe",
    b"[]",
    b"[" * 100_000,
    b'{"incarnation": -1}',
    b'{"incarnation": %d}' % 10**30,
    b'{"incarnation": 1, "floors": {"omsd": {"incarnation": 1, "epoch": 18446744073709551615}}}',
    b'{"incarnation": "1000"}',
]


def group(service: str, incarnation: int, epoch: int) -> Group:
    return Group(service, incarnation=incarnation, epoch=records.EpochRecord(incarnation, epoch))


@pytest.mark.parametrize("content", BAD)
def test_a_keeper_s_damaged_tokens_are_set_aside_and_rebuilt_from_witnesses(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "keeper.json"
    path.write_bytes(content)
    disk = SeenTokens(path, lambda: {"omsd": (1000, 7)})
    (aside,) = tmp_path.glob("keeper.json.damaged-*")
    assert aside.read_bytes() == content
    assert f"{path}: damaged" in disk.trouble and aside.name in disk.trouble and "omsd" in disk.trouble
    for again in (disk, SeenTokens(path)):  # on disk before anything is led
        assert again.highest("omsd") == (1000, 7)
    assert group("omsd", 1000, 6).rank < disk.highest("omsd"), "a store that went back is noticed (R19)"
    disk.first_look(1000, ["omsd"])
    assert disk.highest("omsd") == (1000, 7) and "no lead" not in disk.trouble


def test_a_group_that_no_witness_knows_gets_no_lead_until_the_incarnation_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "keeper.json"
    path.write_bytes(b"")
    SeenTokens(path)
    disk = SeenTokens(path)  # killed before it saw the store: the next one still knows
    disk.first_look(1000, ["riskd"])
    assert group("riskd", 1000, 5).rank < disk.highest("riskd")
    assert group("riskd", 2000, 5).rank > disk.highest("riskd")
    assert group("new", 1000, 0).rank >= disk.highest("new"), (
        "one that never had a leader has nothing to lose"
    )
    disk.save(disk.content())
    later = SeenTokens(path)
    later.first_look(1000, ["riskd", "later"])
    assert later.highest("later") == (0, 0), "compared once: what begins later is seen from its first take"
    assert later.highest("riskd") == (1001, 0)


def test_a_trouble_that_stops_leads_names_group_and_command(tmp_path: Path) -> None:
    (tmp_path / "keeper.json").write_bytes(b"")
    disk = SeenTokens(tmp_path / "keeper.json")
    disk.first_look(1000, ["riskd"])
    assert "token of riskd" in disk.trouble and "`hftctl down`, then `hftctl up`" in disk.trouble


def test_a_missing_file_is_a_new_host_s(tmp_path: Path) -> None:
    disk = SeenTokens(tmp_path / "keeper.json", lambda: {"omsd": (1, 1)})
    disk.first_look(1000, ["omsd"])
    assert disk.highest("omsd") == (0, 0) and not disk.trouble


def test_tokens_that_cannot_be_set_aside_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> Path:
        raise OSError(28, "No space left on device")

    (tmp_path / "keeper.json").write_bytes(b"")
    monkeypatch.setattr(files, "set_aside", full)
    with pytest.raises(InvalidInput, match=r"keeper\.json: damaged .* move it away by hand"):
        SeenTokens(tmp_path / "keeper.json")


def test_witnesses_are_receivers_other_keepers_lease_pages_and_fence_files(tmp_path: Path) -> None:
    site, run = tmp_path / "site", tmp_path / "run"
    for folder in (site / "data" / "execd-alpha-1", site / "simd", site / "hosts" / "beta", run):
        folder.mkdir(parents=True)
    fence = {"omsd": {"incarnation": 5, "epoch": 2, "claimant": {"instance": "x"}}, "odd": 3}
    (site / "data" / "execd-alpha-1" / "fences.json").write_text(json.dumps(fence))
    (site / "simd" / "fences.json").write_text(
        '{"omsd": {"incarnation": 5, "epoch": 1}, "wild": '
        '{"incarnation": 1e99, "epoch": 1}, "far": '
        '{"incarnation": 999999999999999999, "epoch": 1}}'
    )
    (site / "hosts" / "beta" / "keeper.json").write_bytes(GOOD.replace(b"1000", b"4"))
    (site / "data" / "cut").mkdir()
    (site / "data" / "cut" / "fences.json").write_text("{")
    page = run / "riskd-alpha-1.lease"
    pages.create(page, pages.LEASE_MAGIC)
    me = Process("riskd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 1, 1)
    with pages.LeasePage(page, writable=True) as word:
        word.write(pages.LeaseWord(me, 5, 9, pages.Wanted.LEAD, 1))
    fence_file.write(page, {"execd": fence_file.Target(Token(5, "execd", 3))})
    (run / "omsd-alpha-1.lease").write_bytes(b"cut")
    assert witnesses.highest(site, run, "alpha") == {"omsd": (5, 2), "riskd": (5, 9), "execd": (5, 3)}


def test_what_is_set_aside_is_kept_five_times_and_stays_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for n in range(9):
        path.write_text(str(n))
        aside = files.set_aside(path)
        assert aside.read_text() == str(n) == path.read_text()
        path.unlink()
    assert len(list(tmp_path.iterdir())) == files.ASIDE_MAX
    path.mkdir()
    assert files.set_aside(path).is_dir() and not path.exists()


# --- the agent's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"omsd": 3}', b"\0" * 300])
def test_damaged_last_specs_are_set_aside_and_the_store_is_waited_for(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "specs.json"
    path.write_bytes(content)
    last = LastSpecs(path, "alpha")
    assert not last.decision.in_force
    assert "specs.json: expected the last good specs" in last.trouble and "damaged-" in last.trouble
    (aside,) = tmp_path.glob("specs.json.damaged-*")
    assert aside.read_bytes() == content


@pytest.mark.parametrize("cut", [0, 1, 30, 10_000])
def test_events_keep_what_decodes_count_the_rest_and_lose_no_new_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl"
    numbers = itertools.count(10**18)
    first = Events("alpha", path, numbers.__next__)
    for n in range(5):
        first.record("some.event", {"n": n})
    path.write_bytes(path.read_bytes()[:cut] if cut < 10_000 else path.read_bytes() + b'\xff\n{"n": 1\n[[[')
    second = Events("alpha", path, numbers.__next__)
    kept = [event.fields["n"] for event in second.after(0, RING_MAX)]
    assert (kept, second.damaged) == (([], int(cut > 0)) if cut < 10_000 else ([0, 1, 2, 3, 4], 3))
    second.record("after", {"n": 9})
    third = Events("alpha", path, numbers.__next__)
    assert [event.fields["n"] for event in third.after(0, RING_MAX)] == [*kept, 9]


def test_a_number_that_no_host_has_come_to_numbers_no_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f'{{"n": {n}, "host": "alpha", "kind": "x"}}\n' for n in (5, 10**30, -4)))
    events = Events("alpha", path, lambda: 10**18)
    assert [event.n for event in events.after(0, 10)] == [5] and events.damaged == 2
    assert events.record("y", {}).n == 6


@pytest.mark.parametrize("content", [b"", b"x", b"\xff", b"99999", b"-1", b"0", b"1" * 5_000])
def test_a_damaged_port_of_before_means_any_free_one(tmp_path: Path, content: bytes) -> None:
    kept = tmp_path / "agent.port"
    kept.write_bytes(content)
    assert listening._ports(0, kept) == [0] and listening._ports(8080, kept) == [8080]
    kept.write_text("8081\n")
    assert listening._ports(0, kept) == [8081, 0]


def test_an_incarnation_from_the_future_in_the_keeper_s_file_is_damage(tmp_path: Path) -> None:
    """An earlier release learnt it from the store; kept, it would stand above every later one for good."""
    future = time.time_ns() // 1_000_000 + 2 * bounds.FUTURE_MS
    path = tmp_path / "keeper.json"
    path.write_text(f'{{"incarnation": {future}, "floors": {{"omsd": {{"incarnation": 5, "epoch": 2}}}}}}')
    seen = seen_tokens.SeenTokens(path, lambda: {"omsd": (5, 2)})
    assert "damaged" in seen.trouble and seen.highest("omsd") == (5, 2)
