"""hftctl without a floor: command lines judged, answers parsed and printed, exit codes as documented, always
one line on stderr.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controlplane.cli import agent_client, main, render, trading
from controlplane.errors import FloorUnreachable
from controlplane.floor import incarnation
from controlplane.floor.folders import Folders, default_site_dir
from controlplane.http import unix
from controlplane.model import bounds

ASKING = [
    "status",
    "services",
    "endpoints x",
    "health",
    "host list",
    "logs x",
    "events",
    "orders",
    "positions",
    "history x",
    "failover x --reason y",
    "fence show x",
    "fence reset x --reason y",
]


@pytest.mark.parametrize("line", ASKING)
def test_a_verb_that_asks_a_floor_exits_3_with_one_line_when_there_is_none(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*line.split(), "--site-dir", str(tmp_path)]) == 3
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "no floor runs in" in said.err and said.out == ""


def test_down_without_a_floor_is_fine_and_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["down", "--site-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nosuch",
        "status --nosuch",
        "status -o xml",
        "up --speed",
        "endpoints",
        "status --timeout 0",
        "failover omsd",
        "fence reset omsd",
        "fence show",
        "host nosuch",
        "data verify x -o xml",
        "audit verify --output xml",
    ],
)
def test_a_wrong_command_line_exits_2(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFT_SITE_DIR", str(tmp_path))
    assert main.run(line.split()) == 2


@pytest.mark.parametrize("reason", [[], ["--reason", "drill"]])
def test_failover_prints_its_json_whatever_happens(
    reason: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["failover", "omsd", "-o", "json", "--site-dir", str(tmp_path), *reason])
    assert code == (3 if reason else 2)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["operation", "service", "from", "to", "epoch", "took_ms", "outcome", "reason"]
    assert (found["service"], found["outcome"]) == ("omsd", "refused")


@pytest.mark.parametrize("reason", [[], ["--reason", "drill"]])
def test_a_fence_reset_prints_its_json_whatever_happens(
    reason: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.run(["fence", "reset", "omsd", "-o", "json", "--site-dir", str(tmp_path), *reason])
    assert code == (3 if reason else 2)
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["operation", "service", "store", "outcome", "reason", "receivers"]
    assert (found["service"], found["outcome"]) == ("omsd", "refused")


def test_every_outcome_of_a_failover_has_its_exit_code() -> None:
    assert agent_client.EXIT_CODES == {
        "succeeded": 0,
        "refused": 1,
        "failed": 1,
        "cancelled": 1,
        "unknown": 4,
    }


def test_the_options_of_a_verb_may_stand_before_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["--site-dir", str(tmp_path), "-o", "json", "services"]) == 3
    assert str(tmp_path) in capsys.readouterr().err
    assert main.run(["--site-dir", str(tmp_path), "host", "list"]) == 3
    assert str(tmp_path) in capsys.readouterr().err
    assert main.run(["-o", "json", "--site-dir", str(tmp_path), "failover", "omsd"]) == 2
    assert json.loads(capsys.readouterr().out)["outcome"] == "refused"
    assert main.run(["--timeout", "0.5", "--site-dir", str(tmp_path), "up", "--detach"]) == 2
    assert "--timeout" in capsys.readouterr().err  # `up` wants a second at least


def test_bad_services_are_refused_with_line_and_field_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    services = tmp_path / "services.yml"
    services.write_text(
        "services:\n  - name: a\n    daemon: nosuchd\n    mode: singleton\n    hosts: [alpha]\n    cpuss: "
        "[]\n"
    )
    assert (
        main.run(["up", "--detach", "--services", str(services), "--site-dir", str(tmp_path / "floor")]) == 2
    )
    said = capsys.readouterr().err
    assert (
        f"{services}:3: services[0].daemon" in said
        and f"{services}:6: services[0].cpuss" in said
        and "bookd" in said
    )
    assert not (tmp_path / "floor").exists()


def test_a_tape_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["up", "--detach", "--tape", "/nowhere/tape.gz", "--site-dir", str(tmp_path)]) == 2
    assert "--tape /nowhere/tape.gz: no such file" in capsys.readouterr().err


def test_a_table_is_aligned_and_says_nothing_as_a_dash() -> None:
    assert (
        render.table(["a", "bee"], [["longer", "1"], ["x", "22"]], colour=False)
        == "A       BEE\nlonger  1\nx       22"
    )
    assert [render.cell(value) for value in (None, "", True, [], ["a", "b"], 0)] == [
        "-",
        "-",
        "yes",
        "-",
        "a,b",
        "0",
    ]


def test_an_answer_is_parsed_by_length_by_chunks_and_to_the_end() -> None:
    for raw in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Next-Offset: 7\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Next-Offset: "
        b"7\r\n\r\n2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Next-Offset: 7\r\n\r\nbody",
    ):
        answer = unix.parse(raw, "test")
        assert (answer.status, answer.body, answer.headers["x-next-offset"]) == (200, b"body", "7")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"hello",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo",
    ],
)
def test_an_answer_that_is_cut_is_no_answer(raw: bytes) -> None:
    with pytest.raises(FloorUnreachable):
        unix.parse(raw, "test")


def test_positions_stand_beside_the_venues_as_exact_decimals() -> None:
    ours = [{"market": "spot", "symbol": "BTCUSDT", "quantity": "-0.002", "cash": "123.62308"}]
    venue = [
        {"market": "spot", "symbol": "BTCUSDT", "quantity": -200000, "cash": 12362308000},
        {"market": "usdm", "symbol": "BTCUSDT", "quantity": 1, "cash": -1},
    ]
    both, only_venue = trading.merge(ours, venue)
    assert list(both) == ["market", "symbol", "quantity", "cash", "venue_quantity", "venue_cash"]
    assert (both["quantity"], both["cash"]) == (both["venue_quantity"], both["venue_cash"])
    valued = [{**ours[0], "average_price": "61811.54", "realised": "0.5", "unrealised": "-1"}]
    wide, unknown = trading.merge(valued, venue, (*trading.POSITION_KEYS, *trading.VALUED))
    assert (
        wide == both | {"average_price": "61811.54", "realised": "0.5", "unrealised": "-1"}
        and unknown["realised"] == "0"
    )
    assert (only_venue["quantity"], only_venue["venue_quantity"], only_venue["venue_cash"]) == (
        "0",
        "0.00000001",
        "-0.00000001",
    )


def test_the_site_folder_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HFT_SITE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_site_dir() == Path("/state/hftctl/floor")
    monkeypatch.setenv("HFT_SITE_DIR", "/mine")
    assert default_site_dir() == Path("/mine")


def test_two_site_folders_never_share_a_run_folder_and_its_sockets_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    one, other = Folders(tmp_path / "a").run_dir_wanted(), Folders(tmp_path / ("b" * 200)).run_dir_wanted()
    assert one != other and len(str(other / ("i" * 63 + ".snapshots"))) <= 107


NOW_MS = 1_000_000


def test_a_new_store_gets_an_incarnation_above_everything_any_keeper_has_seen() -> None:
    assert incarnation.decide(None, {}, [], NOW_MS).incarnation == NOW_MS
    disk = incarnation.KeeperDisk("alpha", NOW_MS + 5, {"omsd": (NOW_MS + 7, 3)})
    assert incarnation.decide(None, {}, [disk], NOW_MS).incarnation == NOW_MS + 8


def test_a_store_that_went_back_behind_a_keepers_disk_is_raised_and_why_is_said() -> None:
    disk = incarnation.KeeperDisk("alpha", 5, {"omsd": (5, 4)})
    decision = incarnation.decide(5, {"omsd": (5, 3)}, [disk], NOW_MS)
    assert decision.incarnation == NOW_MS and "epoch 4 of omsd" in decision.reason
    assert incarnation.decide(4, {}, [disk], NOW_MS).incarnation == NOW_MS


def test_an_incarnation_from_the_future_raises_nothing() -> None:
    future = NOW_MS + 2 * bounds.FUTURE_MS
    disk = incarnation.KeeperDisk("alpha", future, {"omsd": (future, 3), "riskd": (5, 4)})
    assert incarnation.decide(future, {"omsd": (future, 3)}, [disk], NOW_MS).incarnation == NOW_MS
    assert incarnation.decide(5, {"riskd": (5, 4)}, [disk], NOW_MS) == incarnation.Incarnation(5, "")


def test_a_store_that_is_as_the_keepers_know_it_keeps_its_incarnation() -> None:
    disk = incarnation.KeeperDisk("alpha", 5, {"omsd": (5, 4)})
    # A restore has raised it above all that this keeper saw, and nothing has been taken since.
    assert incarnation.decide(9, {"omsd": (5, 3)}, [disk], NOW_MS) == incarnation.Incarnation(9, "")
    assert incarnation.decide(
        5, {"omsd": (5, 4), "riskd": (5, 9)}, [disk], NOW_MS
    ) == incarnation.Incarnation(5, "")


def order(id: int, status: str) -> dict[str, object]:
    return {"id": id, "status": status}


def test_of_the_newest_orders_those_that_work_come_before_the_ended_ones() -> None:
    told = [order(1, "working"), order(2, "pending_cancel"), order(3, "unknown")]
    told += [order(4, "filled"), order(5, "cancelled"), order(6, "rejected"), order(7, "refused")]

    def ids(lines: int, orders: list[dict[str, object]] = told) -> list[object]:
        return [each["id"] for each in trading.newest(orders, lines)]

    assert (
        ids(4) == [1, 2, 3, 7] and ids(5) == [1, 2, 3, 6, 7] and ids(100) == ids(0) == [1, 2, 3, 4, 5, 6, 7]
    )
    assert ids(3) == [1, 2, 3] and ids(2) == [2, 3] and ids(1) == [3]
    assert ids(2, told[3:]) == [6, 7] and ids(4, []) == []
    assert ids(0, told[::-1]) == [3, 2, 1, 7, 6, 5, 4], "whatever order they are told in"
