"""How one of those that serve is chosen: fair, steady, and by nothing but its arguments."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput, InvalidSettings
from controlplane.model import Process
from controlplane.model.records import Registration
from controlplane.registry import discovery
from controlplane.registry.discovery import balancing, serving
from controlplane.registry.discovery.balancing import Balancing, Candidates, Chooser
from controlplane.registry.discovery.serving import Serving

NAMES = st.sets(st.integers(0, 40), min_size=1, max_size=12)


def one(n: int, *, host: str = "alpha", zone: str = "", weight: int = 1, pid: int = 10) -> Serving:
    process = Process(f"omsd-{host}-{n:02d}", "boot", pid, 100)
    registration = Registration(
        "omsd", process.instance, host, process, {}, "", 0, 0, "", zone=zone, weight=weight
    )
    [found] = serving.serving([registration])
    return found


def chooser(
    way: Balancing,
    usable: list[Serving],
    members: list[Serving] | None = None,
    before: Chooser | None = None,
    seed: int = 1,
) -> Chooser:
    everybody = tuple(usable if members is None else members)
    return way.chooser(Candidates(tuple(usable), everybody, random.Random(seed), before))


def names(found: Chooser, times: int) -> list[str]:
    chosen = [found.turn() for _ in range(times)]
    return [each.instance for each in chosen if each is not None]


@given(NAMES, st.integers(1, 5), st.integers(0, 99))
def test_in_turn_each_is_chosen_as_often_as_any_other(numbers: set[int], rounds: int, seed: int) -> None:
    usable = [one(n) for n in sorted(numbers)]
    counts = Counter(names(chooser(discovery.RoundRobin(), usable, seed=seed), rounds * len(usable)))
    assert counts == {each.instance: rounds for each in usable}


def test_callers_that_hear_of_a_change_at_once_do_not_all_begin_with_the_same() -> None:
    usable = [one(n) for n in range(10)]
    first = {names(chooser(discovery.RoundRobin(), usable, seed=seed), 1)[0] for seed in range(50)}
    assert len(first) > 5


@pytest.mark.parametrize(
    "way",
    [discovery.RoundRobin(), discovery.SameHostFirst("a"), discovery.LeastLoaded(), discovery.Weighted()],
)
def test_where_no_instance_serves_none_is_chosen(way: Balancing) -> None:
    found = chooser(way, [])
    assert found.turn() is None and found.by_key("BTC") is None


@pytest.mark.parametrize("way", [discovery.Sticky(), discovery.SymbolPartitions()])
def test_by_key_none_is_chosen_either_and_a_choice_without_a_key_is_a_mistake(way: Balancing) -> None:
    found = chooser(way, [])
    assert found.by_key("BTC") is None
    with pytest.raises(InvalidInput, match="needs a key"):
        found.turn()


def test_the_same_host_comes_first_then_the_same_zone_then_all() -> None:
    here, near, far = one(1, host="alpha", zone="r1"), one(2, host="beta", zone="r1"), one(3, host="gamma")
    way = discovery.SameHostFirst("alpha", "r1")
    assert set(names(chooser(way, [here, near, far]), 6)) == {here.instance}
    assert set(names(chooser(way, [near, far]), 6)) == {near.instance}
    assert set(names(chooser(way, [far]), 6)) == {far.instance}
    assert set(names(chooser(discovery.SameHostFirst("delta"), [near, far]), 6)) == {
        near.instance,
        far.instance,
    }, "whose zone is not known is near to nobody"


# --- least loaded -------------------------------------------------------------------------------------------


@given(NAMES, st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=60))
def test_the_least_loaded_is_one_with_the_fewest_calls(
    numbers: set[int], moves: list[tuple[bool, int]]
) -> None:
    usable = [one(n) for n in sorted(numbers)]
    found = chooser(discovery.LeastLoaded(), usable)
    calls = Counter({each.instance: 0 for each in usable})
    for starts, at in moves:
        if starts:
            chosen = found.turn()
            assert chosen is not None and calls[chosen.instance] == min(calls.values())
            found.started(chosen)
            calls[chosen.instance] += 1
        else:
            ended = usable[at % len(usable)]
            found.finished(ended)  # also one that was never started: it goes below none
            calls[ended.instance] = max(0, calls[ended.instance] - 1)
    chosen = found.turn()
    assert chosen is not None and calls[chosen.instance] == min(calls.values())


@given(NAMES)
def test_among_equals_the_least_loaded_goes_in_turn(numbers: set[int]) -> None:
    usable = [one(n) for n in sorted(numbers)]
    assert len(set(names(chooser(discovery.LeastLoaded(), usable), len(usable)))) == len(usable)


def test_calls_that_are_under_way_count_on_after_a_change_also_of_one_that_is_out() -> None:
    first, second, third = one(1), one(2), one(3)
    before = chooser(discovery.LeastLoaded(), [first, second])
    for _ in range(3):
        before.started(first)
    before.started(second)
    without = chooser(discovery.LeastLoaded(), [second, third], [first, second, third], before)
    assert names(without, 2) == [third.instance] * 2
    without.finished(first)
    again = chooser(discovery.LeastLoaded(), [first, second], [first, second], without)
    assert names(again, 1) == [second.instance], "one call, beside two"
    again.started(second)
    again.started(second)
    assert names(again, 1) == [first.instance]


def test_a_restarted_instance_begins_without_the_calls_of_the_process_before_it() -> None:
    old, new, other = one(1), one(1, pid=11), one(2)
    before = chooser(discovery.LeastLoaded(), [old, other])
    before.started(old)
    before.started(other)
    after = chooser(discovery.LeastLoaded(), [new, other], before=before)
    after.finished(old)
    assert names(after, 2) == [new.instance] * 2


# --- weighted -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 99), st.integers(0, 30))
def test_in_any_window_of_all_weights_together_each_is_chosen_by_its_weight(
    weights: list[int], seed: int, skipped: int
) -> None:
    usable = [one(n, weight=weight) for n, weight in enumerate(weights)]
    found = chooser(discovery.Weighted(), usable, seed=seed)
    names(found, skipped)
    counts = Counter(names(found, sum(weights)))
    assert counts == {each.instance: each.registration.weight for each in usable}


def test_the_heavy_one_does_not_have_its_share_in_one_go() -> None:
    heavy, light = one(1, weight=5), one(2, weight=5)
    chosen = names(chooser(discovery.Weighted(), [heavy, light]), 20)
    assert max(len(list(run)) for _, run in itertools.groupby(chosen)) <= 2
    heavy = one(1, weight=4)
    chosen = names(chooser(discovery.Weighted(), [heavy, one(2), one(3)]), 60)
    assert max(len(list(run)) for _, run in itertools.groupby(chosen)) <= 4, "and the light ones between"


# --- by key -------------------------------------------------------------------------------------------------

KEYS = [f"venue-{n}" for n in range(300)]


def owners(way: Balancing, usable: list[Serving], members: list[Serving] | None = None) -> dict[str, str]:
    found = chooser(way, usable, members)
    chosen = {key: found.by_key(key) for key in KEYS}
    return {key: each.instance for key, each in chosen.items() if each is not None}


@given(NAMES, st.data())
def test_when_one_leaves_only_its_keys_move_and_when_one_comes_keys_move_only_to_it(
    numbers: set[int], data: st.DataObject
) -> None:
    usable = [one(n) for n in sorted(numbers)]
    leaves = data.draw(st.sampled_from(usable))
    rest = [each for each in usable if each is not leaves]
    before, after = owners(discovery.Sticky(), usable), owners(discovery.Sticky(), rest)
    moved = {key for key in before if after.get(key) != before[key]}
    assert moved == {key for key, owner in before.items() if owner == leaves.instance}


def test_keys_are_spread_and_the_same_for_every_caller_whatever_its_hash_seed() -> None:
    usable = [one(n) for n in range(6)]
    found = owners(discovery.Sticky(), usable)
    counts = Counter(found.values())
    assert len(counts) == 6 and max(counts.values()) < 3 * 300 / 6
    assert [found[key] for key in ("venue-0", "venue-1", "venue-2")] == STEADY


STEADY = ["omsd-alpha-03", "omsd-alpha-03", "omsd-alpha-03"]
"""What they were when this was written: another process, release or machine must agree."""


def test_what_a_sticky_chooser_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancing, "KEYS_MAX", 10)
    found = chooser(discovery.Sticky(), [one(n) for n in range(3)])
    for n in range(95):
        found.by_key(str(n))
    assert len(found._chosen) == 5  # type: ignore[attr-defined]


@given(NAMES, st.integers(1, 80))
def test_partitions_go_to_the_instances_in_turn_and_evenly(numbers: set[int], count: int) -> None:
    usable = [one(n) for n in sorted(numbers)]
    found = chooser(discovery.SymbolPartitions(count), usable)
    counts = Counter(each.instance for each in found.owners)  # type: ignore[attr-defined]
    assert sum(counts.values()) == count
    full = [counts.get(each.instance, 0) for each in usable]
    assert max(full) - min(full) <= 1


def test_one_that_is_out_gives_its_partitions_to_the_others_in_turn_and_gets_them_back() -> None:
    members = [one(n) for n in range(4)]
    out, *rest = members
    before, during = (owners(discovery.SymbolPartitions(), each, members) for each in (members, rest))
    moved = {key for key in KEYS if during[key] != before[key]}
    assert moved == {key for key, owner in before.items() if owner == out.instance}
    assert len({during[key] for key in moved}) == 3
    assert owners(discovery.SymbolPartitions(), members, members) == before


def test_no_partitions_are_a_mistake() -> None:
    with pytest.raises(InvalidSettings, match="at least 1"):
        discovery.SymbolPartitions(0)


# --- filters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "admitted"),
    [
        (discovery.Only(), True),
        (discovery.Only(tags=("hft", "python")), True),
        (discovery.Only(tags=("hft", "rust")), False),
        (discovery.Only(version="1.2"), True),
        (discovery.Only(version="1"), False),
        (discovery.Only(zone="r1"), True),
        (discovery.Only(zone="r2"), False),
        (discovery.Only(role="leader"), False),
    ],
)
def test_only_what_is_wanted_is_admitted(only: discovery.Only, admitted: bool) -> None:
    process = Process("omsd-alpha-1", "boot", 1, 1)
    [found] = serving.serving(
        [Registration("omsd", process.instance, "alpha", process, {}, "", 0, 0, "1.2", zone="r1")]
    )
    assert only.admits(found) is admitted
