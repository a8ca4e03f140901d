"""What is asked of a rollout: its canaries, and the metric that takes it back."""

from __future__ import annotations

import dataclasses

import pytest

from controlplane.config import canary, condition
from controlplane.errors import InvalidInput
from controlplane.model import Mode
from tests.support.rollouts import LEADER, OMSD, STANDBY, lead, status


def test_the_canaries_are_the_standbys_or_the_first_or_those_asked_for() -> None:
    three = dataclasses.replace(OMSD, hosts=("a", "b", "c"))
    assert canary.choose(three, lead(LEADER)) == (STANDBY, "omsd-c-1")
    assert canary.choose(three, lead(LEADER), ["omsd-c-1", LEADER]) == (LEADER, "omsd-c-1")
    assert canary.choose(dataclasses.replace(OMSD, hosts=("a",)), lead(LEADER)) == (LEADER,)
    assert canary.choose(dataclasses.replace(three, mode=Mode.REPLICAS, hosts=("b", "a"))) == (LEADER,)
    assert canary.choose(three) == (LEADER,), "of a group that never led"
    assert canary.choose(three, lead(None, STANDBY)) == (LEADER, "omsd-c-1"), "without the last leader"


def test_a_canary_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"found 'omsd-z-1', wanted .* \(omsd-a-1, omsd-b-1\)"):
        canary.choose(OMSD, None, ["omsd-z-1"])
    with pytest.raises(InvalidInput, match="omsd has no instance"):
        canary.choose(dataclasses.replace(OMSD, hosts=()))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rejects > 5", condition.Condition("rejects", True, 5.0)),
        (" rejects<1e-3 ", condition.Condition("rejects", False, 0.001)),
        ('calls{kind="a > b"} > -2.5', condition.Condition('calls{kind="a > b"}', True, -2.5)),
    ],
)
def test_a_metric_is_a_name_a_sign_and_a_number(text: str, wanted: condition.Condition) -> None:
    assert condition.parse(text) == wanted
    assert condition.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text", ["", "rejects", "rejects > ", "> 5", "rejects = 5", "a > nan", "a > inf", "a > b"]
)
def test_what_is_no_metric_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="wanted NAME > VALUE"):
        condition.parse(text)


def test_a_metric_that_nobody_reports_is_refused_with_those_that_there_are() -> None:
    found = [status(STANDBY, rates={"orders": 1.0}), status(LEADER, rates={"rejects": 1.0, "orders": 2.0})]
    assert condition.check("orders < 1", "omsd", found).name == "orders"
    with pytest.raises(
        InvalidInput, match=r'"fills": no instance of omsd reports it \(there are orders, rej'
    ):
        condition.check("fills > 1", "omsd", found)
    with pytest.raises(InvalidInput, match=r"\(there are none\)"):
        condition.check("fills > 1", "omsd", [])
