"""A fence's promise: what admit has said yes to once shuts every lower token out, whatever happens to the
process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from controlplane.model import Process, Token
from hftd.engine import reasons
from hftd.shm import kept_fences
from hftd.storage.fences import NOBODY, Fences, written
from hftd.wire.codec import TokenOnWire
from tests.support import store_tokens

BOOT = "11111111-2222-3333-4444-555555555555"
ALPHA = Process("omsd-alpha-1", BOOT, 100, 1)
BETA = Process("omsd-beta-1", BOOT, 200, 2)


def token(epoch: int, incarnation: int = 1, group: str = "omsd") -> Token:
    return Token(incarnation, group, epoch)


@pytest.fixture
def fences(tmp_path: Path) -> Fences:
    return Fences(tmp_path / "fences.json", store_tokens.highest)


def test_a_lower_token_is_refused_after_a_higher_one(fences: Fences) -> None:
    assert fences.admit(token(5), ALPHA)
    assert not fences.admit(token(4), BETA)
    assert fences.refuses(token(4))
    assert not fences.refuses(token(5))
    assert "below the fence 1/5" in fences.objection(token(4), BETA)


def test_the_fence_is_on_disk_when_admit_returns(fences: Fences) -> None:
    fences.admit(token(5), ALPHA)
    again = Fences(fences.path, store_tokens.highest)
    assert again.highest("omsd") == token(5)
    assert again.claimant("omsd") == ALPHA
    assert not again.admit(token(4), BETA)


def test_file_and_folder_are_synced_before_admit_returns(
    fences: Fences, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert fences.admit(token(5), ALPHA)
    assert len(synced) == 2
    assert fences.admit(token(5), ALPHA)
    assert len(synced) == 2, "a known token costs no write"


def test_an_equal_token_passes_only_for_its_first_claimant(fences: Fences) -> None:
    assert fences.admit(token(5), ALPHA)
    assert not fences.admit(token(5), BETA)
    assert fences.admit(token(5), ALPHA)
    assert "claimed by omsd-alpha-1" in fences.objection(token(5), BETA)


def test_a_closed_epoch_passes_for_nobody(fences: Fences) -> None:
    assert fences.admit(token(5), NOBODY)
    assert fences.refuses(token(5))
    assert not fences.admit(token(5), ALPHA)
    assert fences.admit(token(6), ALPHA)


def test_a_higher_incarnation_wins_over_any_epoch(fences: Fences) -> None:
    assert fences.admit(token(9, incarnation=1), ALPHA)
    assert fences.admit(token(1, incarnation=2), BETA)
    assert fences.refuses(token(9, incarnation=1))


def test_orders_of_a_group_that_never_fenced_and_of_a_token_not_yet_fenced_are_refused(
    fences: Fences,
) -> None:
    assert fences.refuses(token(1))
    assert fences.refuses(None)
    fences.admit(token(1), ALPHA)
    assert fences.refuses(token(2))
    assert fences.refuses(token(1, group="riskd"))


def test_the_form_on_the_wire_is_checked_like_the_model(fences: Fences) -> None:
    assert fences.admit(TokenOnWire(1, "omsd", 5), ALPHA)
    assert not fences.refuses(TokenOnWire(1, "omsd", 5))
    assert fences.stale(TokenOnWire(1, "omsd", 4))


def test_a_fence_that_cannot_be_written_lets_nobody_through_until_it_can(
    fences: Fences, monkeypatch: pytest.MonkeyPatch
) -> None:
    fences.admit(token(5), ALPHA)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert not fences.admit(token(6), BETA)
        assert fences.refuses(token(5)), "the old leader is shut out at once"
        assert fences.refuses(token(6))
        assert "No space left" in fences.objection(token(6), BETA)
    assert fences.admit(token(6), BETA)
    assert not fences.refuses(token(6))


def test_a_damaged_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "fences.json"
    path.write_text('{"omsd": {"incarn')
    with pytest.raises(InvalidInput, match=r"fences\.json"):
        Fences(path, store_tokens.highest)


claims = st.lists(
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.sampled_from([ALPHA, BETA])), max_size=12
)


@given(claims=claims)
def test_whatever_is_claimed_no_token_has_two_claimants_and_the_fence_never_sinks(
    claims: list[tuple[int, int, Process]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    fences = Fences(tmp_path_factory.mktemp("fences") / "fences.json", store_tokens.highest)
    admitted: dict[tuple[int, int], Process] = {}
    fence = (0, 0)
    for incarnation, epoch, claimant in claims:
        if fences.admit(token(epoch, incarnation), claimant):
            assert (incarnation, epoch) >= fence
            assert admitted.setdefault((incarnation, epoch), claimant) == claimant
            fence = (incarnation, epoch)
    assert all(
        fences.refuses(token(epoch, incarnation))
        for incarnation, epoch in admitted
        if (incarnation, epoch) != fence
    )


def test_a_file_under_its_first_name_is_taken_over(tmp_path: Path) -> None:
    """The first release wrote floors.json: what it refused stays refused."""
    assert Fences(tmp_path / "floors.json", store_tokens.highest).admit(token(5), ALPHA)
    fences = Fences(tmp_path / "fences.json", store_tokens.highest)
    assert not fences.admit(token(4), BETA)
    assert not (tmp_path / "floors.json").exists()


# --- a writer that does not wait ----------------------------------------------------------------------------


class LaterDisk:
    """Writes when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Path, dict[str, kept_fences.Row], Callable[[str], None]]] = []

    def __call__(self, path: Path, rows: Mapping[str, kept_fences.Row], done: Callable[[str], None]) -> None:
        self.jobs.append((path, dict(rows), done))

    def write(self, error: str = "") -> None:
        path, rows, done = self.jobs.pop(0)
        done(error or written(path, rows))


@pytest.fixture
def disk() -> LaterDisk:
    return LaterDisk()


@pytest.fixture
def later(tmp_path: Path, disk: LaterDisk) -> Fences:
    return Fences(tmp_path / "fences.json", store_tokens.highest, disk)


def test_a_fence_counts_once_the_disk_has_it_and_shuts_lower_ones_out_at_once(
    later: Fences, disk: LaterDisk
) -> None:
    assert not later.admit(token(5), ALPHA)
    disk.write()
    assert later.admit(token(5), ALPHA) and not later.refuses(token(5))
    assert not later.admit(token(6), BETA)
    assert later.objection(token(6), BETA) == reasons.BEING_WRITTEN and later.being_written("omsd")
    assert later.refuses(token(5)) and later.refuses(token(6)), "nothing passes meanwhile"
    assert "below the fence" in later.objection(token(5), ALPHA)
    assert Fences(later.path, store_tokens.highest).highest("omsd") == token(5)
    assert not later.admit(token(6), BETA) and len(disk.jobs) == 1, "asked again, written once"
    disk.write()
    assert later.admit(token(6), BETA) and not later.refuses(token(6)) and not later.being_written("omsd")
    assert Fences(later.path, store_tokens.highest).highest("omsd") == token(6)


def test_what_was_raised_while_an_older_fence_was_written_waits_for_its_own_write(
    later: Fences, disk: LaterDisk
) -> None:
    assert not later.admit(token(5), ALPHA)
    assert not later.admit(token(6), BETA)
    assert not later.admit(token(1, group="riskd"), ALPHA)
    disk.write()
    assert later.refuses(token(5)) and later.refuses(token(6)) and later.being_written("omsd")
    disk.write()
    assert not later.refuses(token(6)) and later.being_written("riskd") and not later.being_written("omsd")
    disk.write()
    assert not later.refuses(token(1, group="riskd")) and disk.jobs == []


def test_a_write_that_fails_later_leaves_the_group_shut_and_says_why(later: Fences, disk: LaterDisk) -> None:
    assert not later.admit(token(5), ALPHA)
    disk.write("No space left on device")
    assert later.refuses(token(5)) and not later.being_written("omsd")
    assert "No space left" in later.objection(token(5), ALPHA)
    assert not later.admit(token(5), ALPHA) and later.objection(token(5), ALPHA) == reasons.BEING_WRITTEN
    disk.write()
    assert later.admit(token(5), ALPHA) and not later.refuses(token(5))


def reset(fences: Fences, to: Token, claimant: Process, admitted: int) -> list[str]:
    """What it says of the outcome, as soon as it is known."""
    said: list[str] = []
    fences.reset(to, claimant, admitted, said.append)
    return said


def test_a_fence_is_not_lowered_while_another_is_written(later: Fences, disk: LaterDisk) -> None:
    assert not later.admit(token(9), ALPHA)
    (why_not,) = reset(later, token(5), BETA, later.admitted("omsd"))
    assert "look again" in why_not
    disk.write()
    said = reset(later, token(5), BETA, later.admitted("omsd"))
    assert said == [] and later.highest("omsd") == token(9), "not before the disk has it"
    disk.write()
    assert said == [""] and later.highest("omsd") == token(5)
    assert Fences(later.path, store_tokens.highest).highest("omsd") == token(5)


@pytest.mark.parametrize("error", ["", "No space left on device"])
def test_while_a_fence_is_being_lowered_nothing_of_it_passes_and_no_claim_is_admitted(
    later: Fences, disk: LaterDisk, error: str
) -> None:
    """A claim admitted meanwhile could be the leader's that the operator did not know of."""
    assert not later.admit(token(9), ALPHA) and not later.admit(token(1, group="riskd"), ALPHA)
    disk.write()
    disk.write()
    said = reset(later, token(5), BETA, later.admitted("omsd"))
    assert later.refuses(token(9)) and later.refuses(token(5)) and not later.refuses(token(1, group="riskd"))
    for group, claim in (("omsd", token(9)), ("riskd", token(2, group="riskd"))):
        assert not later.admit(claim, ALPHA) and later.being_written(group)
        assert later.objection(claim, ALPHA) == reasons.BEING_WRITTEN
    (again,) = reset(later, token(5), BETA, later.admitted("omsd"))
    assert "look again" in again and len(disk.jobs) == 1
    disk.write(error)
    assert said == [error] and not later.being_written("riskd")
    if error:
        assert later.highest("omsd") == token(9) and not later.refuses(token(9))
    else:
        assert later.refuses(token(9)) and not later.refuses(token(5)) and not later.admit(token(5), ALPHA)
    assert not later.admit(token(2, group="riskd"), ALPHA)
    disk.write()
    assert later.admit(token(2, group="riskd"), ALPHA)
    kept = Fences(later.path, store_tokens.highest).highest("omsd")
    assert kept == token(9 if error else 5), "no write behind it brought the old one back"
