"""A floor whose tape misses a diff: the book is lost, the site not healthy, until the tape brings the next
snapshot; no daemon is restarted for it.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.http import unix
from hftd.engine.market import book
from hftd.venues import binance, replay, synthetic
from hftd.wire import market
from tests.support import floors

pytestmark = pytest.mark.timeout(300)
LOST_AT_S, SNAPSHOT_AT_S, END_AT_S = 45, 60, 120
"""Of the tape, which is replayed as it was received: the floor is up well before."""


def tape(folder: Path) -> tuple[Path, str]:
    """A capture of the synthetic market, and the name of the instrument of which it misses a diff."""
    source = synthetic.Synthetic(3)
    first = source.instruments[0]
    normalise, shown = binance.Normaliser(first.market, first.id, first.symbol), book.Book()
    series: dict[int, list[replay.Line]] = {each.id: [] for each in source.instruments}
    lost = healed = False
    for line in source:
        at_s = (line.receive_ns - synthetic.START_NS) / 1e9
        if at_s > END_AT_S:
            break
        message = normalise(line.raw, line.receive_ns) if line.instrument == first.id else None
        diff = isinstance(message, market.Message) and message.kind == market.Kind.DIFF
        if isinstance(message, market.Message):
            shown.apply(message)
        if diff and at_s > LOST_AT_S and not lost:
            lost = True
            continue
        series[line.instrument].append(line)
        if diff and at_s > SNAPSHOT_AT_S and not healed:
            healed = True
            raw = binance.snapshot(shown.last, *shown.depth(1000))
            series[first.id].append(replay.Line(line.receive_ns, first.id, raw, "", 0))
    assert lost and healed
    for each in source.instruments:
        path = folder / each.market / f"{each.symbol}_20231114.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (b"%d %s\n" % (line.receive_ns, line.raw) for line in series[each.id])
        path.write_bytes(gzip.compress(b"".join(lines), 1))
    return folder / first.market, first.name


@pytest.fixture
def floor() -> Iterator[tuple[floors.Floor, str]]:
    with tempfile.TemporaryDirectory(prefix="hft-tape-") as folder:
        path, name = tape(Path(folder))
        with floors.floor("--tape", str(path), "--speed", "1") as up:
            yield up, name


def test_a_lost_book_is_a_reason_until_the_next_snapshot_and_restarts_nobody(
    floor: tuple[floors.Floor, str],
) -> None:
    up, name = floor
    before = up.pids()
    floors.wait_for("unhealthy for the lost book", lambda: not up.status()["healthy"], seconds=LOST_AT_S + 60)
    found = floors.wait_for(
        "bookd and simd say so", lambda: len((now := up.status())["reasons"]) == 2 and now
    )
    assert [each.startswith(f"{name}: ") for each in found["reasons"]] == [True, True], found["reasons"]
    rows = [row for service in found["services"] for row in service["instances"]]
    assert all(row["ready"] and row["health"] == "passing" for row in rows), "no restart helps"
    floors.wait_for("healthy by the snapshot", up.healthy, seconds=SNAPSHOT_AT_S)
    assert up.pids() == before

    def told() -> bool:
        socket = up.run_dir() / "alpha.agent.sock"
        answer = unix.request(socket, "GET", "/v1/site/events?limit=1000", timeout_s=5)
        kinds = [
            (event["kind"], event["fields"].get("severity"))
            for event in json.loads(answer.body)
            if event["fields"].get("id") == f"book:{name}"
        ]
        wanted = [("alarm.raised", "critical"), ("alarm.cleared", None)]
        return all(kinds.count(each) == 2 for each in wanted)

    floors.wait_for("both alarms and their ends in the events", told)
