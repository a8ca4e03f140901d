"""`events`, `history` and `logs` of a floor that is down: from its site folder, whatever lies in it, and with
a word on stderr that it is down.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.events import Events
from controlplane.cli import agent_client, kept, main
from controlplane.floor.folders import Folders
from controlplane.host import identity
from controlplane.site import event_stream


@pytest.fixture
def floor(tmp_path: Path) -> Folders:
    """What two agents have written, as they write it."""
    made = Folders(tmp_path / "site")
    made.create()
    now = iter(range(1_795_000_000_000_000_000, 1_796_000_000_000_000_000, 1_000_000_000))
    alpha, beta = (
        Events(host, made.host(host) / "events.jsonl", lambda: next(now)) for host in ("alpha", "beta")
    )
    alpha.record("agent.started", {"pid": 1})
    beta.record("agent.started", {"pid": 2})
    change = {"service": "omsd", "cause": "process_lost", "actor": "system", "reason": "it died"}
    change |= {"from": "omsd-alpha-1", "to": "omsd-beta-1", "took_ms": 25.5}
    beta.record("leader.changed", {**change, "epoch": 2})
    alpha.record("leader.changed", {**change, "epoch": 1, "service": "riskd"})
    alpha.record("agent.stopped", {})
    (made.log("omsd-alpha-1")).write_bytes(b"one\ntwo\x1b[2J\nthree\n")
    return made


def run(capsys: pytest.CaptureFixture[str], folders: Folders, *words: str) -> tuple[int, str, str]:
    code = main.run([*words, "--site-dir", str(folders.site_dir)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_events_of_all_hosts_are_one_line_by_time(floor: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, floor, "events")
    assert code == 0 and "no floor runs in" in err and err.endswith("these events are from its files\n")
    assert [line.split()[1:3] for line in out.splitlines()] == [
        ["alpha", "agent.started"],
        ["beta", "agent.started"],
        ["beta", "leader.changed"],
        ["alpha", "leader.changed"],
        ["alpha", "agent.stopped"],
    ]
    found = json.loads(run(capsys, floor, "events", "-n", "2", "-o", "json")[1])
    assert [event["kind"] for event in found] == ["leader.changed", "agent.stopped"]
    assert found[1]["at"] == "2026-11-18T11:06:44.000Z"


def test_history_has_the_time_at_which_the_cause_was_seen(
    floor: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, floor, "history", "omsd")
    assert code == 0 and "its events" in err
    head, row = out.splitlines()
    assert " ".join(head.split()) == "TIME EPOCH FROM TO CAUSE TOOK MS ACTOR REASON"
    assert " ".join(row.split()) == (
        "2026-11-18T11:06:41.974Z 2 omsd-alpha-1 omsd-beta-1 process_lost 25.5 system it died"
    )
    assert run(capsys, floor, "history", "nosuch")[0] == 3


def test_a_log_is_shown_with_nothing_that_a_terminal_obeys(
    floor: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, floor, "logs", "omsd-alpha-1", "-n", "2")
    assert (code, out) == (0, "two\\x1b[2J\nthree\n") and "from its files" in err
    for name in ("nosuch", "../hosts/alpha/events"):
        assert run(capsys, floor, "logs", name)[0] == 3


@pytest.mark.parametrize("words", [["events", "-f"], ["logs", "omsd-alpha-1", "-f"]])
def test_there_is_nothing_to_follow(
    floor: Folders, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, floor, *words)
    assert code == 0 and out


RUBBISH = [b"", b"\xff\xfe", b"[]", b"{}", b'{"n": "x"}', b'{"n": 1e999}', b"[" * 100_000]
RUBBISH += [b'{"n": %d, "host": "a", "kind": "b", "fields": {}}' % 10**30, b'{"n": 1, "host": "a"']
RUBBISH += [b'{"n": 1, "host": "a", "kind": "b", "fields": [1]}']


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_what_is_no_event_is_left_out(floor: Folders, rubbish: bytes) -> None:
    before = kept.events(floor)
    with (floor.host("alpha") / "events.jsonl").open("ab") as file:
        file.write(rubbish + b"\n")
    assert kept.events(floor) == before and len(before) == 5


def test_a_follower_goes_on_in_the_files_where_the_agents_left_it(floor: Folders) -> None:
    rows = [json.loads(line) for line in (floor.host("alpha") / "events.jsonl").read_bytes().splitlines()]
    places = {"alpha": event_stream.of(rows[1])}
    told = [(event["host"], event["kind"]) for event in kept.events(floor, event_stream.cursor(places))]
    assert ("alpha", "agent.stopped") in told and len(told) == 3, "beta's agent was away: its last life"
    places["alpha"] = event_stream.Position("0123", 7)  # of a file that is gone
    told = [(event["host"], event["kind"]) for event in kept.events(floor, event_stream.cursor(places))]
    assert told[0] == ("alpha", event_stream.LOST) and len(told) == 6


def test_the_time_of_an_agent_of_an_older_release_is_a_place_too(floor: Folders) -> None:
    events = kept.events(floor)
    old = [{**event, "n": 1_790_000_000_000_000_000 + event["n"]} for event in events[:2]]
    (floor.host("beta") / "events.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in old))
    told = kept.events(floor, "1794000000000000000")
    assert [event["host"] for event in told] == ["alpha", "alpha", "alpha"]


def named(name: str, **changed: Any) -> dict[str, Any]:
    me = identity.identify(name)
    assert me is not None
    return {**identity.to_plain(me), **changed}


def test_how_a_floor_ended_is_told_apart_from_agents_that_are_away(
    floor: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "SETTLE_S", 0)
    gone = named("floord", start_time=1)
    floor.floor_json.write_text(json.dumps({"floord": gone, "processes": {"etcd": named("etcd")}}))
    asked = agent_client.Floor(floor.site_dir)
    assert kept.ended(asked) is None, "something of it runs: hftctl up adopts it"
    floor.floor_json.write_text(
        json.dumps({"floord": gone, "processes": {"etcd": gone, "agent-alpha": None}})
    )
    told = kept.ended(asked)
    assert told is not None and told[1] == 3 and "hft-floord, etcd, agent-alpha are gone" in told[0]
    floor.floor_json.unlink()
    assert kept.ended(asked) == (f"the floor in {floor.site_dir} was taken down", 0)
