"""Events are numbered by a counter that no clock moves, and a reader who cannot be served is told so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.events import FILE_BYTES_MAX, RING_MAX, Events
from agents.http import site_events
from controlplane.errors import InvalidInput
from controlplane.site import event_stream
from controlplane.site.event_stream import Position

DAY_NS = 86_400 * 10**9
HOUR_NS = 3_600 * 10**9
NOON_NS = 1_795_000_000_000_000_000


class Wall:
    """A wall clock that is set, as by hand or by NTP."""

    def __init__(self, now_ns: int = NOON_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        self.now_ns += 10**9
        return self.now_ns


class Site:
    """Hosts and a reader that hands back the cursor of the last event it got, as `events -f` does."""

    def __init__(self, folder: Path, *hosts: str) -> None:
        self.folder = folder
        self.walls = {host: Wall() for host in hosts}
        self.hosts = {host: self.start(host) for host in hosts}
        self.cursor = ""
        self.ahead_ns = HOUR_NS
        """Of the agent that answers: all is settled for it."""

    def path(self, host: str) -> Path:
        return self.folder / host / "events.jsonl"

    def start(self, host: str) -> Events:
        return Events(host, self.path(host), self.walls[host])

    def record(self, host: str, *numbers: int) -> None:
        for number in numbers:
            self.hosts[host].record("some.event", {"number": number})

    def read(self, limit: int = 1000, away: tuple[str, ...] = ()) -> list[Any]:
        """What is news to the reader: the numbers in it, and the texts of what was lost."""
        places = event_stream.positions(self.cursor) if self.cursor else None
        parts = {}
        for host, events in self.hosts.items():
            if host in away:
                continue
            if places is None:
                parts[host] = [event.row() for event in events.latest(limit)]
            elif host in places:
                parts[host] = events.behind(places[host], limit)
            else:
                parts[host] = [event.row() for event in events.of_this_run(limit)]
        told = site_events.page(parts, places, limit, NOON_NS + self.ahead_ns)
        self.cursor = told[-1]["cursor"] if told else self.cursor
        return [row["fields"].get("number", row["fields"].get("text")) for row in told]


def test_a_clock_that_was_a_day_ahead_and_is_put_right_hides_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha", "beta")
    site.record("alpha", 1)
    site.record("beta", 2)
    assert sorted(site.read()) == [1, 2]
    for wall in site.walls.values():
        wall.now_ns += DAY_NS
    site.record("alpha", 3)
    site.record("beta", 4)
    assert sorted(site.read()) == [3, 4], "stamps from tomorrow wait for nothing"
    for wall in site.walls.values():
        wall.now_ns -= DAY_NS
    site.record("alpha", 5)
    assert site.read() == [5]
    site.hosts["beta"] = site.start("beta")  # restarted: it goes on from the highest in its file
    site.record("beta", 6)
    assert site.read() == [6] and site.read() == []
    assert [event.n for event in site.hosts["beta"].latest(9)] == [1, 2, 3]


def test_hosts_whose_clocks_differ_by_an_hour_both_tell_all_they_have(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha", "beta")
    site.walls["beta"].now_ns -= HOUR_NS
    site.record("alpha", 1)
    assert site.read() == [1]
    for number in range(2, 8, 2):
        site.record("alpha", number)
        site.record("beta", number + 1)
        assert sorted(site.read()) == [number, number + 1]


def test_pages_of_a_reader_that_was_away_come_in_the_order_of_each_host(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha", "beta")
    site.record("alpha", 0)
    site.record("beta", 100)
    site.read()
    site.record("alpha", *range(1, 20))
    site.walls["alpha"].now_ns -= DAY_NS
    site.record("alpha", *range(20, 40))
    site.record("beta", *range(101, 140))
    read: list[int] = []
    while page := site.read(limit=7):
        assert len(page) <= 7
        read += page
    assert [n for n in read if n < 100] == list(range(1, 40))
    assert [n for n in read if n > 100] == list(range(101, 140))


def test_a_first_page_is_the_last_events_and_what_waits_to_settle_comes_next(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha", "beta")
    site.record("beta", 1, 2, 3)
    site.record("alpha", 4, 5)
    site.walls["beta"].now_ns = NOON_NS + HOUR_NS - 10**9 - 10**7
    site.record("beta", 6)  # 10 ms ago
    assert site.read(limit=2) in ([3, 5], [5, 3])
    site.ahead_ns += 10**9
    assert site.read() == [6], "neither what was older than the page nor nothing"


def test_a_lost_file_is_told_to_who_was_reading_it(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha", "beta")
    site.record("alpha", 1, 2, 3)
    site.record("beta", 4)
    site.read()
    site.path("alpha").unlink()
    site.hosts["alpha"] = site.start("alpha")
    site.record("alpha", 5)
    [told, number] = site.read()
    assert number == 5
    assert told.startswith("the events of alpha behind number 3 are gone: its events file was lost")
    site.record("alpha", 6)
    assert site.read() == [6], "it is told once"


def test_a_reader_that_comes_back_too_late_is_told_how_many_it_missed(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha")
    site.record("alpha", 0)
    site.read()
    site.record("alpha", *range(1, RING_MAX + 11))
    told, *numbers = site.read(limit=RING_MAX + 1)
    assert told.startswith("10 events of alpha behind number 1 are no longer kept")
    assert numbers == list(range(11, RING_MAX + 11))
    site = Site(tmp_path, "alpha")
    site.cursor = "alpha=.5"
    assert site.read(limit=1) != [] and site.read(limit=2) == [11, 12], "a page of one tells it too, once"


def test_numbers_that_were_given_twice_as_a_full_disk_took_no_lines_are_two_events(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha")
    site.record("alpha", 1)
    kept = site.path("alpha").read_bytes()
    site.record("alpha", 2, 3)
    assert site.read() == [1, 2, 3]
    site.path("alpha").write_bytes(kept)
    site.hosts["alpha"] = site.start("alpha")
    site.record("alpha", 4)
    assert site.read() == [4]


def test_a_host_whose_agent_was_away_is_read_from_its_start(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha", "beta")
    site.record("beta", 1)
    site.record("alpha", 2)
    assert site.read(away=("beta",)) == [2]
    site.hosts["beta"] = site.start("beta")
    site.record("beta", 3)
    assert site.read() == [3]
    site.record("beta", 4)
    assert site.read(away=("beta",)) == []
    assert site.read() == [4], "its place is kept while it is away"


def test_a_file_of_an_older_release_is_read_and_counted_on(tmp_path: Path) -> None:
    path = tmp_path / "alpha" / "events.jsonl"
    path.parent.mkdir()
    old = [{"n": NOON_NS + n * 10**9, "host": "alpha", "kind": "x", "fields": {"number": n}} for n in (1, 2)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in old))
    site = Site(tmp_path, "alpha")
    places = {"alpha": Position("", NOON_NS + 10**9)}
    site.cursor = event_stream.cursor(places)
    assert site.read() == [2]
    site.record("alpha", 3)
    assert site.read() == [3]
    last = site.hosts["alpha"].latest(1)[0]
    assert last.n == NOON_NS + 2 * 10**9 + 1 and last.at_ns == NOON_NS + 10**9


def test_numbers_go_on_after_a_rotation_that_the_agent_did_not_survive(tmp_path: Path) -> None:
    site = Site(tmp_path, "alpha")
    site.record("alpha", 1, 2)
    path = site.path("alpha")
    path.write_bytes(path.read_bytes() + b" " * FILE_BYTES_MAX + b"\n")
    path.replace(path.with_name("events.jsonl.1"))
    again = site.start("alpha")
    assert again.record("some.event", {}).n == 3 and len(again.latest(9)) == 3


def test_a_number_that_a_host_has_not_come_to_is_refused(tmp_path: Path) -> None:
    events = Site(tmp_path, "alpha").hosts["alpha"]
    events.record("some.event", {})
    assert events.after(1, 10) == []
    with pytest.raises(InvalidInput, match=rf"after={NOON_NS}: the events of alpha are numbered up to 1;"):
        events.after(NOON_NS, 10)


@pytest.mark.parametrize(
    "text",
    ["x", "alpha=", "alpha=zz.1", "alpha=1", "=.1", "alpha=ab.1,,", f"alpha=ab.{10**19 - 1}", "a=b.1" * 9999],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        event_stream.positions(text)


def test_a_cursor_survives_any_name_of_a_host() -> None:
    places = {host: Position("0af3", 7) for host in ("alpha", "a,b=c.d!e%", "höst")}
    text = event_stream.cursor({**places, "old": Position("", NOON_NS)})
    assert event_stream.positions(text) == {**places, "old": Position("", NOON_NS)}
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEF0123456789!=.,")
