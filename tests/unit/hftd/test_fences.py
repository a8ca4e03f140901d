"""A floor's promise: what admit has said yes to once shuts every lower token out, whatever happens to the
process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from controlplane.model import Process, Token
from hftd.storage.fences import NOBODY, Floors
from hftd.wire.codec import TokenOnWire

BOOT = "11111111-2222-3333-4444-555555555555"
ALPHA = Process("omsd-alpha-1", BOOT, 100, 1)
BETA = Process("omsd-beta-1", BOOT, 200, 2)


def token(epoch: int, incarnation: int = 1, group: str = "omsd") -> Token:
    return Token(incarnation, group, epoch)


@pytest.fixture
def floors(tmp_path: Path) -> Floors:
    return Floors(tmp_path / "floors.json")


def test_a_lower_token_is_refused_after_a_higher_one(floors: Floors) -> None:
    assert floors.admit(token(5), ALPHA)
    assert not floors.admit(token(4), BETA)
    assert floors.refuses(token(4))
    assert not floors.refuses(token(5))
    assert "below the floor 1/5" in floors.objection(token(4), BETA)


def test_the_floor_is_on_disk_when_admit_returns(floors: Floors) -> None:
    floors.admit(token(5), ALPHA)
    again = Floors(floors.path)
    assert again.highest("omsd") == token(5)
    assert again.claimant("omsd") == ALPHA
    assert not again.admit(token(4), BETA)


def test_file_and_folder_are_synced_before_admit_returns(
    floors: Floors, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert floors.admit(token(5), ALPHA)
    assert len(synced) == 2
    assert floors.admit(token(5), ALPHA)
    assert len(synced) == 2, "a known token costs no write"


def test_an_equal_token_passes_only_for_its_first_claimant(floors: Floors) -> None:
    assert floors.admit(token(5), ALPHA)
    assert not floors.admit(token(5), BETA)
    assert floors.admit(token(5), ALPHA)
    assert "claimed by omsd-alpha-1" in floors.objection(token(5), BETA)


def test_a_closed_epoch_passes_for_nobody(floors: Floors) -> None:
    assert floors.admit(token(5), NOBODY)
    assert floors.refuses(token(5))
    assert not floors.admit(token(5), ALPHA)
    assert floors.admit(token(6), ALPHA)


def test_a_higher_incarnation_wins_over_any_epoch(floors: Floors) -> None:
    assert floors.admit(token(9, incarnation=1), ALPHA)
    assert floors.admit(token(1, incarnation=2), BETA)
    assert floors.refuses(token(9, incarnation=1))


def test_orders_of_a_group_that_never_fenced_and_of_a_token_not_yet_fenced_are_refused(
    floors: Floors,
) -> None:
    assert floors.refuses(token(1))
    assert floors.refuses(None)
    floors.admit(token(1), ALPHA)
    assert floors.refuses(token(2))
    assert floors.refuses(token(1, group="riskd"))


def test_the_form_on_the_wire_is_checked_like_the_model(floors: Floors) -> None:
    assert floors.admit(TokenOnWire(1, "omsd", 5), ALPHA)
    assert not floors.refuses(TokenOnWire(1, "omsd", 5))
    assert floors.stale(TokenOnWire(1, "omsd", 4))


def test_a_floor_that_cannot_be_written_lets_nobody_through_until_it_can(
    floors: Floors, monkeypatch: pytest.MonkeyPatch
) -> None:
    floors.admit(token(5), ALPHA)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert not floors.admit(token(6), BETA)
        assert floors.refuses(token(5)), "the old leader is shut out at once"
        assert floors.refuses(token(6))
        assert "No space left" in floors.objection(token(6), BETA)
    assert floors.admit(token(6), BETA)
    assert not floors.refuses(token(6))


def test_a_damaged_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "floors.json"
    path.write_text('{"omsd": {"incarn')
    with pytest.raises(InvalidInput, match=r"floors\.json"):
        Floors(path)


claims = st.lists(
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.sampled_from([ALPHA, BETA])), max_size=12
)


@given(claims=claims)
def test_whatever_is_claimed_no_token_has_two_claimants_and_the_floor_never_sinks(
    claims: list[tuple[int, int, Process]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    floors = Floors(tmp_path_factory.mktemp("floors") / "floors.json")
    admitted: dict[tuple[int, int], Process] = {}
    floor = (0, 0)
    for incarnation, epoch, claimant in claims:
        if floors.admit(token(epoch, incarnation), claimant):
            assert (incarnation, epoch) >= floor
            assert admitted.setdefault((incarnation, epoch), claimant) == claimant
            floor = (incarnation, epoch)
    assert all(
        floors.refuses(token(epoch, incarnation))
        for incarnation, epoch in admitted
        if (incarnation, epoch) != floor
    )
