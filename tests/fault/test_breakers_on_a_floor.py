"""Circuit breakers on a floor that trades: a venue that freezes, and an operator's word."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import floors, outside

pytestmark = pytest.mark.timeout(300)
VENUE = "execd.simd"
FREEZES = 4
OPENS_S = 20.0
"""After ten seconds without a price the strategy quotes no more."""


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        yield one


def breakers(floor: floors.Floor) -> dict[str, dict[str, Any]]:
    """By name; of a group, the one of the instance that has had calls."""
    done = floor.run("breaker", "list", "-o", "json")
    rows = json.loads(done.stdout)
    assert done.returncode == int(any(row["state"] in ("open", "forced_open") for row in rows))
    return {row["name"]: row for row in sorted(rows, key=lambda row: row["calls"])}


def test_every_hop_of_an_order_has_a_breaker_that_is_closed(floor: floors.Floor) -> None:
    floors.wait_for("orders are answered", lambda: breakers(floor)[VENUE]["calls"] > 0, pause_s=0.2)
    found = floors.wait_for(
        "all are known", lambda: {"omsd.execd", VENUE} < set(now := breakers(floor)) and now, pause_s=0.2
    )
    assert {name.partition(".")[2] for name in found} == {"riskd", "execd", "simd"}
    assert {row["state"] for row in found.values()} == {"closed"}


def opens(floor: floors.Floor, venue_pid: int) -> None:
    """Freeze the venue until its breaker opens. That takes five orders after it, and while its prices stand
    still there may be fewer: then it goes on for a while, and freezes elsewhere.
    """
    for left in reversed(range(FREEZES)):
        floor.kill(venue_pid, signal.SIGSTOP)
        try:
            floors.wait_for(
                "its breaker opens",
                lambda: breakers(floor)[VENUE]["state"] == "open",
                seconds=OPENS_S if left else floors.WAIT_S,
                pause_s=0.1,
            )
            return
        except floors.NotInTime:
            floor.kill(venue_pid, signal.SIGCONT)
            if not left:
                raise
            assert floor.trades()


def test_a_venue_that_freezes_is_sent_no_more_until_it_answers_again(floor: floors.Floor) -> None:
    (venue,) = floor.service("simd")["instances"]
    try:
        opens(floor, venue["pid"])
        alarm = f"breaker_open.{VENUE}"
        floors.wait_for("an alarm", lambda: alarm in [each["id"] for each in floor.status()["alarms"]])
        floors.wait_for("it is shown", lambda: "not closed:\nNAME" in floor.run("status").stdout)
    finally:
        floor.kill(venue["pid"], signal.SIGCONT)
    floors.wait_for("it closes", lambda: breakers(floor)[VENUE]["state"] == "closed", pause_s=0.1)
    floors.wait_for("and clears", lambda: alarm not in [each["id"] for each in floor.status()["alarms"]])
    floors.wait_for("it trades", floor.trades)


def test_an_operator_stops_all_new_orders_and_lets_them_go_again(floor: floors.Floor) -> None:
    done = floor.run("breaker", "open", VENUE, "--reason", "drill", "--for", "10m")
    assert done.returncode == 0, done.stdout + done.stderr
    # Any agent answers, and the one of another host hears of it a moment later.
    row = floors.wait_for(
        "every agent shows it", lambda: (now := breakers(floor)[VENUE])["state"] == "forced_open" and now
    )
    assert (row["forced"], row["reason"]) == (True, "drill")
    floors.wait_for("orders are refused", lambda: breakers(floor)[VENUE]["refused"] > row["refused"] + 1)
    at_venue = outside.seen_by_venue(floor.site_dir)
    floors.wait_for("more of them", lambda: breakers(floor)[VENUE]["refused"] > row["refused"] + 4)
    assert outside.seen_by_venue(floor.site_dir) == at_venue
    done = floor.run("breaker", "auto", VENUE, "--reason", "drill is over")
    assert done.returncode == 0, done.stdout + done.stderr
    floors.wait_for("it trades", floor.trades)
    floors.wait_for("it is closed", lambda: breakers(floor)[VENUE]["state"] == "closed")


def test_a_name_that_no_breaker_has_is_refused_with_those_that_there_are(floor: floors.Floor) -> None:
    done = floor.run("breaker", "open", "execd.moon", "--reason", "drill")
    assert done.returncode == 2
    assert "execd.simd" in done.stderr


def test_no_order_came_to_the_venue_twice(floor: floors.Floor) -> None:
    assert outside.seen_by_venue(floor.site_dir)
    assert outside.sent_twice(floor.site_dir) == set()
