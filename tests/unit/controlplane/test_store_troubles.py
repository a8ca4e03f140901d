"""What an operator is told of the store's own cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.site.store_troubles import LOOKS, Judge
from controlplane.store import Health
from controlplane.store.base import Condition, Member

WELL = Condition(
    tuple(Member(f"10.0.0.{n}:2379", True, n == 1, "3.7.3") for n in (1, 2, 3)),
    3,
    7,
    100_000_000,
    2_000_000_000,
)


def health(condition: Condition | None, latency_ms: float | None = 1.0, kind: str = "etcd") -> Health:
    return Health(kind, ("10.0.0.1:2379",), latency_ms is not None, "3.7.3", latency_ms, "", condition)


def told(condition: Condition | None, kind: str = "etcd") -> dict[str, tuple[str, str]]:
    return {each.id: (each.severity, each.text) for each in Judge().look(health(condition, kind=kind), 0.0)}


def members(*answer: bool, leads: int = 0) -> tuple[Member, ...]:
    return tuple(
        Member(f"m{n}", answers, answers and n == leads, "3.7.3", 0, "" if answers else "no connection")
        for n, answers in enumerate(answer)
    )


def test_nothing_is_said_of_a_store_that_is_well_or_that_nobody_can_ask() -> None:
    assert told(WELL) == {} and told(None) == {}


@pytest.mark.parametrize(
    ("answer", "severity", "said"),
    [
        (
            (True, True, False),
            "warning",
            "1 of the 3 servers of etcd do not answer (m2: no connection); one more",
        ),
        ((True, True, True, True, False), "warning", "1 more may be lost"),
    ],
)
def test_members_that_are_lost_are_named_with_how_many_more_may_be(
    answer: tuple[bool, ...], severity: str, said: str
) -> None:
    found = told(replace(WELL, members=members(*answer), size=len(answer)))
    assert found.keys() == {"store.members"}
    assert found["store.members"][0] == severity and said in found["store.members"][1]


def test_a_cluster_without_a_leader_is_critical_and_says_what_goes_on() -> None:
    (severity, text), *others = told(replace(WELL, members=members(True, False, False, leads=9))).values()
    assert severity == "critical" and "2 of its 3 servers must agree" in text and not others
    assert "daemons trade until their leases end" in text and "not lost" in text


def test_a_full_database_says_what_stops_and_how_it_is_emptied() -> None:
    full = replace(WELL, size_bytes=2_000_000_000, faults=("memberID:8 alarm:NOSPACE",))
    found = told(full)
    assert found.keys() == {"store.full"} and found["store.full"][0] == "critical"
    for part in ("2000 MB of 2000", "No lead can be renewed", "etcdctl defrag", "etcdctl alarm disarm"):
        assert part in found["store.full"][1]
    assert told(replace(WELL, size_bytes=1_300_000_000))["store.size"][0] == "warning"


def test_other_faults_are_told_in_the_stores_words() -> None:
    assert "CORRUPT" in told(replace(WELL, faults=("alarm:CORRUPT",)))["store.corrupt"][1]
    assert told(replace(WELL, faults=("what nobody foresaw",)))["store.fault"] == (
        "critical",
        "etcd says of itself: what nobody foresaw",
    )


def test_a_member_far_behind_is_named() -> None:
    behind = (*WELL.members[:2], replace(WELL.members[2], behind=9_000))
    assert "10.0.0.3:2379: 9000 entries behind" in told(replace(WELL, members=behind))["store.member_lags"][1]


def test_elections_are_counted_and_many_of_them_are_said_until_they_are_old() -> None:
    judge = Judge()
    for term in range(7, 11):
        found = judge.look(health(replace(WELL, term=term)), float(term))
    assert judge.leader_changes == 3
    assert [each.id for each in found] == ["store.elections"] and "3 leaders" in found[0].text
    assert judge.look(health(replace(WELL, term=10)), 1_000.0) == [] and judge.leader_changes == 3
    # While there is none, nothing is counted: the next one is another leader, or the same.
    judge.look(health(replace(WELL, members=members(False, False, False), term=0)), 1_001.0)
    assert judge.leader_changes == 3


def test_slowness_is_judged_by_the_median_of_many_looks() -> None:
    judge = Judge()
    for _ in range(LOOKS):
        assert judge.look(health(WELL, 2.0), 0.0) == []
    assert judge.look(health(WELL, 900.0), 0.0) == [], "one slow read is none"
    for _ in range(LOOKS):
        found = judge.look(health(WELL, 80.0), 0.0)
    assert [each.id for each in found] == ["store.slow"] and "80 ms" in found[0].text
