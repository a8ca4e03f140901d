"""A receiver believes a token up to 64 epochs above what the store is known to hold. Beyond that nothing is
written or acknowledged before the store's word has come, and no claim moves the bound.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model import Process, Token, in_range
from controlplane.model.bounds import EPOCH_BITS, INCARNATION_BITS
from hftd.storage.fences import NOBODY, Fences
from hftd.storage.heights import CLAIMS_MAX, FORGET_NS, WINDOW, Heights

BOOT = "11111111-2222-3333-4444-555555555555"
ALPHA = Process("omsd-alpha-1", BOOT, 100, 1)
BETA = Process("omsd-beta-1", BOOT, 200, 2)
FORGER = Process("omsd-alpha-1", BOOT, 666, 3)
NOW = 1_700_000_000_000


def token(epoch: int, incarnation: int = NOW, group: str = "omsd") -> Token:
    return Token(incarnation, group, epoch)


def reset(fences: Fences, to: Token, claimant: Process, admitted: int) -> str:
    """Why it is not done, as it is said at once by a disk that does not wait."""
    said: list[str] = []
    fences.reset(to, claimant, admitted, said.append)
    (why_not,) = said
    return why_not


class Store:
    """What the receiver is told of the store."""

    def __init__(self, *tokens: Token) -> None:
        self.tokens = {each.group: each for each in tokens}

    def __call__(self, group: str) -> Token | None:
        return self.tokens.get(group)

    def hold(self, held: Token) -> None:
        self.tokens[held.group] = held


@pytest.fixture
def store() -> Store:
    return Store(token(5))


@pytest.fixture
def fences(tmp_path: Path, store: Store) -> Fences:
    made = Fences(tmp_path / "fences.json", store)
    assert made.admit(token(5), ALPHA)
    return made


UNBELIEVED = {
    "one too high": token(5 + WINDOW + 1),
    "as high as fits": token((1 << EPOCH_BITS) - 1),
    "higher incarnation": token(1, NOW + 1),
    "another group": token(1, group="nobody"),
}
IMPOSSIBLE = {
    "epoch out of range": token(1 << EPOCH_BITS),
    "epoch of 2^62": token(1 << 62),
    "incarnation out of range": token(1, 1 << INCARNATION_BITS),
    "negative": token(-1, NOW + 1),
}


@pytest.mark.parametrize(
    "forged", [*UNBELIEVED.values(), *IMPOSSIBLE.values()], ids=[*UNBELIEVED, *IMPOSSIBLE]
)
def test_a_token_beyond_the_window_is_not_written_and_the_leader_goes_on(
    fences: Fences, forged: Token
) -> None:
    kept = fences.path.read_bytes()
    assert not fences.admit(forged, FORGER)
    assert fences.path.read_bytes() == kept
    assert not fences.refuses(token(5)), "the leader's orders pass"
    assert fences.refuses(forged)
    assert [claim.token for claim in fences.claims()] == [forged]
    assert fences.refusal_counter(forged) == "unconfirmed_fences"
    assert fences.admit(token(6), BETA), "and a failover is taken at once"


@pytest.mark.parametrize("forged", UNBELIEVED.values(), ids=UNBELIEVED)
def test_it_is_taken_once_the_store_confirms_it(fences: Fences, store: Store, forged: Token) -> None:
    assert not fences.admit(forged, BETA) and fences.waits(forged)
    assert "is not confirmed" in fences.objection(forged, BETA)
    store.hold(forged)
    assert not fences.waits(forged) and fences.claims() == []
    assert fences.admit(forged, BETA)
    assert fences.refuses(token(5)) is (forged.group == "omsd")


@pytest.mark.parametrize("forged", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_store_gives_out_is_refused_by_name_for_ever(
    fences: Fences, store: Store, forged: Token
) -> None:
    store.hold(forged)
    assert not fences.admit(forged, FORGER)
    assert not fences.waits(forged), "asking again is of no use"
    assert "out of range" in fences.objection(forged, FORGER)


@pytest.mark.parametrize("above", [1, WINDOW])
def test_what_is_within_the_window_waits_for_nobody(fences: Fences, above: int) -> None:
    assert fences.admit(token(5 + above), BETA)


def test_the_window_is_not_climbed_in_steps(fences: Fences) -> None:
    assert fences.admit(token(5 + WINDOW), FORGER)
    assert not fences.admit(token(5 + WINDOW + 1), FORGER)


def test_nor_over_restarts_once_the_store_is_known(fences: Fences, store: Store) -> None:
    assert fences.admit(token(5 + WINDOW), FORGER)
    assert not Fences(fences.path, store).admit(token(5 + WINDOW + 1), FORGER)


def test_without_the_stores_word_the_fence_that_was_read_at_the_start_counts(fences: Fences) -> None:
    again = Fences(fences.path, Store())
    assert again.admit(token(6), BETA)
    assert not again.admit(token(5 + WINDOW + 1), BETA)
    assert not again.admit(token(1, NOW + 1), BETA)


def test_a_fresh_receiver_believes_nothing_before_it_is_told(tmp_path: Path) -> None:
    store = Store()
    fences = Fences(tmp_path / "fences.json", store)
    assert not fences.admit(token(1), ALPHA) and fences.waits(token(1))
    assert not fences.path.exists()
    store.hold(token(1))
    assert fences.admit(token(1), ALPHA)


def test_the_claims_that_are_shown_are_bounded_and_forgotten(store: Store) -> None:
    now_ns = 1_000
    heights = Heights({"omsd": (NOW, 5)}, store, lambda: now_ns)
    for epoch in range(1000, 1000 + 2 * CLAIMS_MAX):
        assert heights.judge(token(epoch), FORGER)
    now_ns += FORGET_NS
    assert heights.judge(token(1000), FORGER), "claimed again: kept on, since when it began"
    kept = heights.claims(store)
    assert len(kept) == CLAIMS_MAX and (kept[0].since_ns, kept[0].store) == (1_000, token(5))
    now_ns += 1
    assert [claim.token for claim in heights.claims(store)] == [token(1000)]


# --- set to what the store holds ----------------------------------------------------------------------------


def locked(tmp_path: Path, high: Token) -> Fences:
    """As an older release would have been: it believed everything."""
    path = tmp_path / "fences.json"
    assert in_range(high.incarnation, high.epoch)
    assert Fences(path, Store(high)).admit(high, FORGER)
    return Fences(path, Store(token(5)))


@pytest.mark.parametrize("high", [token(900), token(6), token(1, NOW + 9)], ids=str)
def test_a_reset_sets_a_fence_to_the_stores_token_on_disk(tmp_path: Path, high: Token) -> None:
    fences = locked(tmp_path, high)
    assert not fences.admit(token(5), ALPHA)
    assert reset(fences, token(5), ALPHA, fences.admitted("omsd")) == ""
    again = Fences(fences.path, Store(token(5)))
    for each in (fences, again):
        assert (each.highest("omsd"), each.claimant("omsd")) == (token(5), ALPHA)
        assert not each.refuses(token(5)) and each.refuses(high)
        assert not each.admit(token(4), BETA) and not each.admit(token(5), BETA)
        assert each.admit(token(5), ALPHA)
    assert fences.admit(token(6), BETA)


def test_a_reset_corrects_who_claimed_the_stores_own_token_first(tmp_path: Path) -> None:
    fences = locked(tmp_path, token(5))
    assert not fences.admit(token(5), ALPHA)
    assert reset(fences, token(5), ALPHA, 0) == "" and fences.admit(token(5), ALPHA)


def test_a_reset_to_an_epoch_that_nobody_holds_closes_it(tmp_path: Path) -> None:
    fences = locked(tmp_path, token(900))
    assert reset(fences, token(5), NOBODY, 0) == ""
    assert fences.refuses(token(5)) and not fences.admit(token(5), ALPHA) and fences.admit(token(6), BETA)


def test_a_reset_changes_nothing_once_a_claim_was_admitted_since_it_looked(fences: Fences) -> None:
    """The store may have given out a higher token between the look and the reset: lowering now would let the
    deposed leader's orders pass.
    """
    looked = fences.admitted("omsd")
    assert fences.admit(token(6), BETA)
    assert "meanwhile" in reset(fences, token(5), ALPHA, looked)
    assert fences.highest("omsd") == token(6) and fences.refuses(token(5))


def test_the_forged_claim_of_the_next_leader_comes_true_between_look_and_reset(tmp_path: Path) -> None:
    """The forger named the very process that then takes this very epoch: its FENCE writes nothing, and still
    the reset must not lower.
    """
    path = tmp_path / "fences.json"
    fences = Fences(path, Store(token(5)))
    assert fences.admit(token(6), BETA), "forged"
    looked = fences.admitted("omsd")
    assert fences.admit(token(6), BETA), "true"
    assert reset(fences, token(5), ALPHA, looked) != "" and fences.refuses(token(5))


def test_a_reset_raises_no_fence(fences: Fences) -> None:
    looked = fences.admitted("omsd")
    assert reset(fences, token(9), BETA, looked) == "" and fences.highest("omsd") == token(5)


def test_a_reset_that_cannot_be_written_is_said_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fences = locked(tmp_path, token(900))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hftd.shm.kept_fences.write", full)
    assert "No space left" in reset(fences, token(5), ALPHA, 0)
    assert fences.highest("omsd") == token(900) and fences.refuses(token(5))


def test_a_fence_out_of_range_that_an_older_release_wrote_loads_passes_nothing_and_is_reset(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fences.json"
    row = f'{{"incarnation":{NOW},"epoch":{1 << 62},"claimant":{{"instance":"omsd-alpha-1",'
    path.write_text(f'{{"omsd":{row}"boot_id":"{BOOT}","pid":666,"start_time":3}}}}}}')
    fences = Fences(path, Store(token(5)))
    assert fences.refuses(token(1 << 62)) and not fences.admit(token(1 << 62), FORGER)
    assert reset(fences, token(5), ALPHA, 0) == "" and not fences.refuses(token(5))


# --- against a model ----------------------------------------------------------------------------------------

CLAIMANTS = st.sampled_from([ALPHA, BETA, FORGER])
RANKS = st.tuples(st.sampled_from([NOW, NOW + 1]), st.integers(1, 3 * WINDOW))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), RANKS, CLAIMANTS),
        st.tuples(st.just("store"), RANKS, CLAIMANTS),
        st.tuples(st.just("reset"), st.booleans(), CLAIMANTS),
        st.tuples(st.just("restart"), st.none(), st.none()),
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_whatever_is_claimed_confirmed_and_reset_the_fence_is_the_models(
    steps: list[tuple[str, object, Process]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The model: a claim stands when it is not below the fence, not another's, and at most 64 epochs above
    the store's token (or, where that is unknown, above the fence at the start).
    """
    path = tmp_path_factory.mktemp("fences") / "fences.json"
    store = Store()
    fences = Fences(path, store)
    fence: tuple[tuple[int, int], Process] | None = None
    at_start: tuple[int, int] | None = None
    for step, what, claimant in steps:
        if step == "store":
            assert isinstance(what, tuple)
            store.hold(token(what[1], what[0]))
        elif step == "restart":
            fences, at_start = Fences(path, store), fence[0] if fence else None
        elif step == "reset":
            held = store("omsd")
            if held is None:
                continue
            admitted = fences.admitted("omsd") - (0 if what else 1)
            assert (reset(fences, held, claimant, admitted) == "") is bool(what)
            if what:
                at_start = held.rank
                if fence is not None and fence[0] >= held.rank:
                    fence = (held.rank, claimant)
        else:
            assert isinstance(what, tuple)
            held = store("omsd")
            base = held.rank if held is not None else at_start
            believed = base is not None and (
                what <= base or (what[0] == base[0] and what[1] <= base[1] + WINDOW)
            )
            stands = believed if fence is None or what > fence[0] else fence == (what, claimant)
            assert fences.admit(token(what[1], what[0]), claimant) is stands
            if stands:
                fence = (what, claimant)
        found = fences.highest("omsd")
        assert (found.rank if found else None) == (fence[0] if fence else None)
        assert Fences(path, store).highest("omsd") == found, "on disk"
        if fence is not None:
            assert not fences.refuses(token(fence[0][1], fence[0][0]))
