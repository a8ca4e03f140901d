"""Settings that change while a daemon runs are taken whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from controlplane.errors import InvalidInput, InvalidSettings
from hftd.runtime.in_force import InForce


@dataclass(frozen=True)
class Inner:
    failures: int = 5


@dataclass(frozen=True)
class Settings:
    limit: int = 10
    rate: int = 1
    tape: str = field(default="", metadata={"restart": True})
    risk: str = field(default="riskd", metadata={"service": "riskd"})
    breaker: Inner = field(default_factory=Inner)
    log_level: str = ""


def read(given: Mapping[str, Any]) -> Settings:
    try:
        return msgspec.convert(given, Settings)
    except msgspec.ValidationError as exc:
        raise InvalidInput(str(exc)) from exc


@pytest.fixture
def in_force() -> InForce:
    made = InForce(1)
    made.begin(Settings(), read)
    return made


def test_all_followers_see_the_new_settings_and_their_revision(in_force: InForce) -> None:
    seen: list[tuple[Settings, int]] = []
    in_force.follow_all(lambda new: seen.append((new, in_force.revision)))
    in_force.follow_all(lambda new: seen.append((new, in_force.revision)))
    assert in_force.want(4, {"limit": 7}) == ["limit"]
    assert seen == [(Settings(7), 4)] * 2
    assert (in_force.settings, in_force.revision, in_force.refused) == (Settings(7), 4, "")


def test_the_same_settings_again_are_acknowledged_and_nobody_is_called(in_force: InForce) -> None:
    in_force.follow_all(lambda _: pytest.fail("nothing has changed"))
    assert in_force.want(1, {}) == []
    assert (in_force.revision, in_force.refused) == (1, "")


def test_the_same_settings_under_another_revision_are_said_to_who_shows_it(in_force: InForce) -> None:
    seen: list[int] = []
    in_force.follow_all(lambda _: seen.append(in_force.revision))
    assert in_force.want(3, {"limit": 10}) == []
    assert seen == [3]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"limit": "many", "rate": 2}, "limit"),
        ({"limit": 7, "tape": "other"}, "tape: changes only with a restart of the instance"),
        ({"limit": 7, "risk": "riskd-2"}, "risk: changes only with a restart of the instance"),
    ],
)
def test_what_is_bad_or_needs_a_restart_is_refused_whole(
    in_force: InForce, given: dict[str, Any], why: str
) -> None:
    in_force.follow_all(lambda _: pytest.fail("nothing may change"))
    assert in_force.want(2, given) == []
    assert in_force.settings == Settings() and in_force.revision == 1
    assert "revision 2" in in_force.refused and why in in_force.refused
    assert in_force.want(1, {}) == [] and not in_force.refused, "the ones in force are wanted again"


@pytest.mark.parametrize("error", [InvalidSettings("limit 7: odd"), KeyError("x"), ZeroDivisionError()])
def test_a_follower_that_raises_takes_everything_back(in_force: InForce, error: Exception) -> None:
    first: list[int] = []
    second: list[int] = []
    in_force.follow_all(lambda new: first.append(new.limit))

    def refuses(new: Settings) -> None:
        second.append(new.limit)
        if new.limit == 7:
            raise error

    in_force.follow_all(refuses)
    in_force.follow_all(lambda _: pytest.fail("it had not been called, and is not called back"))
    assert in_force.want(2, {"limit": 7}) == []
    assert (first, second) == ([7, 10], [7, 10])
    assert in_force.settings == Settings() and in_force.revision == 1
    assert type(error).__name__ in in_force.refused or "limit 7: odd" in in_force.refused


def test_a_daemon_that_follows_nothing_refuses_a_change_and_says_why(in_force: InForce) -> None:
    assert in_force.want(2, {"limit": 7}) == []
    assert "limit: this daemon does not follow it while it runs (Loop.on_settings)" in in_force.refused
    assert in_force.want(3, {}) == [] and in_force.revision == 3, "what changes nothing it can take"
    assert in_force.want(4, {"log_level": "debug"}) == ["log_level"], "that one the runtime follows"


def test_one_setting_can_be_watched_and_the_others_are_refused(in_force: InForce) -> None:
    seen: list[tuple[int, int]] = []
    in_force.follow_one("breaker.failures", lambda old, new: seen.append((old, new)))
    in_force.follow_one("limit", lambda old, new: seen.append((old, new)))
    assert in_force.want(2, {"breaker": {"failures": 6}}) == ["breaker"]
    assert seen == [(5, 6)]
    assert in_force.want(3, {"breaker": {"failures": 6}, "rate": 9}) == []
    assert "rate: this daemon does not follow it" in in_force.refused and in_force.revision == 2
    with pytest.raises(InvalidInput, match="has no such setting"):
        in_force.follow_one("breaker.successes", lambda *_: None)


def test_a_schema_that_raises_something_else_refuses_too() -> None:
    in_force = InForce(1)
    in_force.begin(Settings(), lambda given: Settings(limit=given["limits"]))
    assert in_force.want(2, {"limit": 7}) == []
    assert (in_force.revision, in_force.refused) == (1, "revision 2: KeyError: 'limits'")


def test_a_process_without_a_schema_refuses_whatever_is_wanted() -> None:
    assert InForce(1).want(2, {}) == []
