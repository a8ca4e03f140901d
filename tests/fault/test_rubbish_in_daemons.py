"""Fault: what a daemon reads from its own neighbours is rubbish: values that no venue sends, counts that
nearly overflow, frames that are cut, a tape of garbage.

Each message that cannot be true is dropped alone. It is counted, an alarm names it, the daemon is the same
process afterwards, and what comes next is taken as if nothing had been. tests/fault/test_noise_on_sockets.py
sends bytes of strangers to every socket of a whole floor; here the sender is the right one.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hftd import bus
from hftd.engine import fixed, reasons
from hftd.venues import binance, replay, sim_faults
from hftd.wire import codec, control, feed, market, orders, requests
from tests.integration import test_market_data, test_simd
from tests.support import daemons

pytestmark = pytest.mark.timeout(180)
ONE = fixed.UNIT
UINT64_MAX = (1 << 64) - 1
INT64_MAX = (1 << 63) - 1
DIFF = (
    b'{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":%s,"s":"BTCUSDT","U":%s,"u":%s,"pu":%s,'
    b'"b":[],"a":[]}}'
)
TRADE = (
    b'{"stream":"btcusdt@trade","data":{"e":"trade","E":%s,"s":"BTCUSDT","t":%s,"p":"1","q":"1","m":true}}'
)
BAD_FRAMES = [
    DIFF % (b"1", b"1", b"2", b"36893488147419103232"),
    DIFF % (b"1", b"1", b"2", b"9" * 4_299),
    DIFF % (b"1", b"1", b"2", b"9" * 5_000),
    DIFF % (b"1", b"18446744073709551616", b"18446744073709551617", b"0"),
    DIFF % (b"1", b"9223372036854775807", b"9223372036854775808", b"0"),
    DIFF % (b"1", b"1", b"9223372036854775807", b"0"),
    DIFF % (b"1", b"-1", b"2", b"0"),
    DIFF % (b"4102444800001", b"1", b"2", b"0"),
    DIFF % (b"-1", b"1", b"2", b"0"),
    TRADE % (b"1", b"9223372036854775808"),
    TRADE % (b"99999999999999999999999", b"1"),
    TRADE % (b"1", b"-1"),
    b'{"lastUpdateId":18446744073709551616,"bids":[],"asks":[]}',
    b'{"lastUpdateId":1,"bids":[["92233720368.54775808","1"]],"asks":[]}',
    b'{"stream":"' + b"[" * 100_000,
]
"""Each is one line of a venue that is wrong in one value."""


# --- marketd ------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[test_market_data.Market]:
    with tempfile.TemporaryDirectory(prefix="hft-") as name:
        found = test_market_data.Market(Path(name))
        try:
            with found.pair:
                found.start_bookd()
                found.send(20)
                found.until(found.in_step, "the books are the venue's")
                yield found
        finally:
            found.venue.close()


def counters(pair: test_market_data.Market, name: str) -> dict[str, int]:
    status = pair.pair.status.get(f"{name}-alpha-1")
    return status.counters if status is not None else {}


def alarms(pair: test_market_data.Market, name: str) -> dict[str, str]:
    return {alarm.id: alarm.text for alarm in pair.pair.status[f"{name}-alpha-1"].alarms}


def still_right(pair: test_market_data.Market) -> None:
    """The same two processes, and books that are the venue's again."""
    pair.send(20)
    pair.until(pair.in_step, "the books are the venue's")
    assert all(process.poll() is None for process in pair.pair.processes.values())


def test_lines_with_a_number_that_is_none_cost_marketd_those_lines(pair: test_market_data.Market) -> None:
    lines = [replay.Line(1, 0, raw, "", 0) for raw in BAD_FRAMES]
    good = DIFF % (b"1", b"1", b"1", b"0")
    times = (-1, market.TIME_NS_MAX + 1, INT64_MAX, -INT64_MAX - 1)
    lines += [replay.Line(receive_ns, 0, good, "", 0) for receive_ns in times]
    for line in lines:
        pair.until(lambda line=line: pair.venue.send([line]), "the pipe takes a frame")
    pair.until(
        lambda: counters(pair, "marketd").get("undecodable") == len(lines), "marketd has counted them all"
    )
    text = alarms(pair, "marketd")["undecodable:spot:BTCUSDT"]
    assert text.startswith(f"spot:BTCUSDT: lines dropped: {len(lines)};") and "receive or event time" in text
    still_right(pair)
    assert counters(pair, "marketd").get("undecodable") == len(lines)
    assert pair.sum("gaps") == 0, "none of them moved a book"


def test_frames_of_the_feed_that_cannot_be_true_are_dropped_whole(pair: test_market_data.Market) -> None:
    over = feed.SEQUENCE_MAX + 1
    cut = feed.pack([(0, 1, DIFF % (b"1", b"1", b"1", b"0"))], 1, pair.venue.session)[:-1]
    frames = [b"", b"\xff" * 24, feed.pack([], over, 1), feed.pack([], 1, over), feed.pack([], UINT64_MAX, 1)]
    for frame in frames:
        pair.until(lambda frame=frame: pair.venue._push.send(frame), "the pipe takes a frame")
    pair.until(
        lambda: counters(pair, "marketd").get("undecodable") == len(frames), "marketd has counted them"
    )
    assert f"messages dropped that do not decode: {len(frames)};" in alarms(pair, "marketd")["undecodable"]
    assert counters(pair, "marketd").get("lost", 0) == 0, "nothing was believed of them"
    still_right(pair)
    # A frame that is cut says truly which lines were in it: those are lost, and known to be.
    pair.until(lambda: pair.venue._push.send(cut), "the pipe takes a frame")
    pair.until(lambda: counters(pair, "marketd").get("undecodable", 0) > len(frames), "and this one")
    still_right(pair)


def test_answers_and_questions_that_cannot_be_true_change_nothing(pair: test_market_data.Market) -> None:
    marketd, head = pair.venue.asker, (codec.VERSION, 1, 0, "simd", None)
    snapshot = binance.snapshot(7, [(ONE, ONE)], [(2 * ONE, ONE)])
    wrong = [
        requests.SnapshotFrame(*head, 0, UINT64_MAX, snapshot),
        requests.SnapshotFrame(*head, 0, -1, snapshot),
        requests.SnapshotFrame(*head, UINT64_MAX, 1, snapshot),
        requests.SnapshotFrame(*head, 0, 1, BAD_FRAMES[-3]),
    ]
    for answer in wrong:
        pair.until(lambda answer=answer: pair.venue._router.send(marketd, codec.encode(answer)), "taken")
    pair.until(lambda: counters(pair, "marketd").get("undecodable") == len(wrong), "marketd has counted them")
    session = (pair.pair.ask("marketd", "counts") or {})["session"]
    stranger = bus.link.Dealer("stranger", f"ipc://{pair.pair.folder}/marketd-alpha-1.requests")
    try:
        for message in (
            requests.Credit(*head, session, UINT64_MAX),
            requests.Credit(*head, UINT64_MAX, 1),
            requests.SnapshotWanted(*head, UINT64_MAX),
            requests.SnapshotWanted(*head, -1),
        ):
            pair.until(lambda message=message: stranger.send(codec.encode(message)), "taken")
        pair.until(lambda: (pair.pair.ask("marketd", "counts") or {}).get("credit", 0) > 0, "credit")
    finally:
        stranger.close()
    still_right(pair)


def test_a_venue_that_names_instruments_that_are_none_is_not_believed_and_asked_again(
    tmp_path: Path,
) -> None:
    """Until it says something else marketd is not ready, and says why."""
    folder, wanted = tmp_path, 0
    router = bus.link.Router(f"ipc://{folder}/v.snapshots")
    push = bus.pipeline.Push(f"ipc://{folder}/v.feed")
    spot = requests.Instrument(0, "spot", "BTCUSDT", -8, -8, "spot")
    refused = [
        [codec.replace(spot, id=1 << 16)],
        [codec.replace(spot, id=-1)],
        [codec.replace(spot, id=UINT64_MAX)],
        [spot, codec.replace(spot, symbol="ETHUSDT")],
        [codec.replace(spot, symbol="X" * 201)],
    ]
    try:
        with daemons.daemon(tmp_path, "marketd") as marketd:
            venue = daemons.peers(
                "simd", feed=f"ipc://{folder}/v.feed", snapshots=f"ipc://{folder}/v.snapshots"
            )
            marketd.start(venue)
            for answer in [*refused, [spot]]:
                while True:
                    assert router.socket.poll(20_000)
                    identity, frame = router.socket.recv_multipart()
                    if isinstance(requests.decode_asked(frame), requests.InstrumentsWanted):
                        break
                wanted += 1
                head = (codec.VERSION, 1, 0, "simd", None)
                assert router.send(identity, codec.encode(requests.Instruments(*head, answer)))
                if answer is refused[-1]:
                    status = marketd.counted("undecodable", len(refused))
                    assert not status.ready and "which instruments" in status.reason
                    assert "over 200 characters" in {a.id: a.text for a in status.alarms}["undecodable"]
            marketd.ready()
            assert marketd.ask("counts")["instruments"] == {"spot:BTCUSDT": {}}
    finally:
        router.close()
        push.close()


def test_a_counter_that_would_pass_64_bits_stands_still_and_marketd_goes_on(
    pair: test_market_data.Market,
) -> None:
    """Every other frame claims that 2^62 lines before it are lost: five such claims pass 64 bits."""
    session = pair.venue.session
    for sequence in (feed.SEQUENCE_MAX, 1) * 5:
        frame = feed.pack([], sequence, session)
        pair.until(lambda frame=frame: pair.venue._push.send(frame), "the pipe takes a frame")
    pair.until(lambda: counters(pair, "marketd").get("lost") == INT64_MAX, "the counter stands at its end")
    still_right(pair)


# --- bookd --------------------------------------------------------------------------------------------------


class Marketd:
    """What bookd sees of marketd: one instrument, whose book holds one bid and one offer."""

    def __init__(self, folder: Path) -> None:
        self._publisher = bus.publish.Publisher(f"ipc://{folder}/m.market")
        self._router = bus.link.Router(f"ipc://{folder}/m.requests")
        self.peers = daemons.peers(
            "marketd", market=f"ipc://{folder}/m.market", requests=f"ipc://{folder}/m.requests"
        )
        self.sequence, self.session, self.last = 1, 77, 10

    def frame(self, *messages: market.Message) -> bytes:
        packed = market.frame([market.pack(message) for message in messages], self.sequence, self.session)
        self.sequence += len(messages)
        return packed

    def send(self, frame: bytes) -> None:
        self._publisher.send(frame)

    def message(self, kind: market.Kind, **fields: Any) -> market.Message:
        empty = market.Message(3, kind, 0, 1_000, 0, 0, 0, 0, 0, 0, [], [])
        return empty._replace(**fields)

    def instrument(self, payload: bytes = b"") -> market.Message:
        named = requests.encode_instrument(daemons.Bookd.INSTRUMENT)
        return self.message(market.Kind.INSTRUMENT, payload=payload or named)

    def turn(self) -> None:
        """The next diff, and a snapshot when one is wanted."""
        self.last += 1
        bids, asks = [(100 * ONE, self.last)], [(101 * ONE, self.last)]
        diff = self.message(market.Kind.DIFF, first=self.last, last=self.last, bids=bids, asks=asks)
        self.send(self.frame(self.instrument(), diff))
        while self._router.socket.poll(0):
            asked = requests.decode_asked(self._router.socket.recv_multipart()[1])
            if isinstance(asked, requests.SnapshotWanted):
                snapshot = self.message(market.Kind.SNAPSHOT, last=self.last, bids=bids, asks=asks)
                self.send(self.frame(snapshot))

    def close(self) -> None:
        self._publisher.close()
        self._router.close()


def book_is_right(bookd: daemons.Daemon, marketd: Marketd) -> None:
    def right() -> bool:
        marketd.turn()
        shown = bookd.ask("books").get("spot:BTCUSDT", {})
        quantity = fixed.text(marketd.last)
        found = [shown.get(key) for key in ("in_step", "last", "levels", "bid_quantity", "ask_quantity")]
        return found == [True, marketd.last, 2, quantity, quantity]

    daemons.wait_for("bookd's book is the one that was sent", right)


RUBBISH_FOR_BOOKD: list[Callable[[Marketd], bytes]] = [
    lambda _: b"",
    lambda _: b"\xff" * 100,
    lambda m: market.frame([], market.SEQUENCE_MAX + 1, m.session),
    lambda m: market.frame([], UINT64_MAX, UINT64_MAX),
    lambda m: m.frame(m.instrument())[:-1],
    lambda m: m.frame(m.message(market.Kind.TRADE, receive_ns=INT64_MAX, bids=[(ONE, ONE)])),
    lambda m: m.frame(m.message(market.Kind.TRADE, receive_ns=-1, bids=[(ONE, ONE)])),
    lambda m: m.frame(m.message(market.Kind.DIFF, receive_ns=market.TIME_NS_MAX + 1)),
]


def test_what_cannot_be_a_market_frame_is_dropped_and_the_books_are_right_again(tmp_path: Path) -> None:
    """A frame that was cut has lost messages: its chain is broken, and mended by a snapshot."""
    marketd = Marketd(tmp_path)
    try:
        with daemons.daemon(tmp_path, "bookd") as bookd:
            bookd.start(marketd.peers)
            for count, rubbish in enumerate(RUBBISH_FOR_BOOKD, start=1):
                book_is_right(bookd, marketd)
                marketd.send(rubbish(marketd))
                assert bookd.counted("undecodable", count).counters["undecodable"] == count
            book_is_right(bookd, marketd)
            status = bookd.until(lambda message: isinstance(message, control.Status) and message.ready)
            (alarm,) = status.alarms
            assert alarm.id == "undecodable" and f"do not decode: {len(RUBBISH_FOR_BOOKD)};" in alarm.text
            assert "which is no time" in alarm.text
    finally:
        marketd.close()


def test_trades_and_reference_data_that_cannot_be_true_are_counted_and_move_nothing(tmp_path: Path) -> None:
    marketd = Marketd(tmp_path)
    tops = bus.publish.Subscriber(f"ipc://{tmp_path}/bookd-alpha-1.tops")
    try:
        with daemons.daemon(tmp_path, "bookd", {"bar_s": 1.0}) as bookd:
            bookd.start(marketd.peers)
            book_is_right(bookd, marketd)
            daemons.receive(tops.socket, lambda frame: frame, bool)  # what it repeats: we are subscribed
            trade = marketd.message(market.Kind.TRADE, receive_ns=5_000, bids=[(ONE, 3)])
            wrong = trade._replace(bids=[(ONE, -INT64_MAX - 1)])
            much = trade._replace(bids=[(ONE, INT64_MAX)])
            later = marketd.message(market.Kind.DIFF, receive_ns=3_000_000_000, first=1, last=1)
            marketd.send(marketd.frame(trade, wrong, wrong, much, trade, later))
            assert bookd.counted("bar_overflows", 3).counters["bar_overflows"] == 3

            def is_bar(frame: bytes) -> Any:
                return next((m for m in market.messages(frame) if m.kind == market.Kind.BAR), None)

            bar = daemons.receive(tops.socket, is_bar, lambda found: found is not None)
            assert bar.bids == [(ONE, ONE), (ONE, ONE), (6, 2)], "volume and trades of the two that fit"
            marketd.send(marketd.frame(marketd.instrument(b"\xc1")))
            marketd.send(marketd.frame(marketd.message(market.Kind.TRADE, instrument=9, bids=[(1, 1)])))
            assert bookd.counted("unknown_instrument", 2).counters["unknown_instrument"] == 2
            book_is_right(bookd, marketd)
    finally:
        tops.close()
        marketd.close()


# --- simd ---------------------------------------------------------------------------------------------------


@pytest.fixture
def simd(tmp_path: Path) -> Iterator[Callable[..., test_simd.Simd]]:
    made: list[test_simd.Simd] = []

    def make(content: bytes, speed: str) -> test_simd.Simd:
        made.append(test_simd.Simd(tmp_path, [], speed))
        (tmp_path / "spot" / "btcusdt_20240808.gz").write_bytes(gzip.compress(content))
        return made[-1]

    yield make
    for one in made:
        one.close()


def on_tape(receive_ns: int, raw: bytes) -> bytes:
    return b"%d %s\n" % (receive_ns, raw)


@pytest.mark.parametrize("speed", ["1", "max"])
def test_a_tape_of_garbage_is_played_to_its_end_by_one_simd(
    simd: Callable[..., test_simd.Simd], speed: str
) -> None:
    """Between its good lines: every wrong number, times of no clock, a line from the future, an hour's gap,
    and as many newlines as fit.
    """
    start, hour = test_simd.START_NS, 3_600_000_000_000
    good = [test_simd.SNAPSHOT, *(test_simd.diff(n) for n in range(11, 31))]
    rows = [on_tape(start, good[0])]
    for number, raw in enumerate(good[1:11]):
        rows.append(on_tape(start + number, raw))
    rows += [on_tape(start + 20, raw) for raw in BAD_FRAMES]
    rows += [
        on_tape(wrong, good[1]) for wrong in (1 << 63, 9_999_999_999_999_999_999, market.TIME_NS_MAX + 1)
    ]
    rows += [on_tape(start + 30, good[11]), on_tape(start + 2 * hour, good[1]), b"\n" * 5_000]
    rows += [on_tape(start + hour + number, raw) for number, raw in enumerate(good[12:])]
    bad_here = len(BAD_FRAMES) + 3 + 1 + 5_000
    rows.append(b"\n" * (20 << 20))
    one = simd(b"".join(rows), speed)
    one.start()
    assert one.process is not None
    _, lines = one.lines(len(good) + 1 + len(BAD_FRAMES))
    assert [line for line in lines if line in good] == [*good[:12], good[1], *good[12:]]
    status = one.said(
        lambda message: (
            isinstance(message, control.Status) and any(alarm.id == "tape_end" for alarm in message.alarms)
        )
    )
    assert status.ready and status.counters["bad_lines"] == bad_here + replay.BAD_IN_A_ROW_MAX + 1
    found = {alarm.id: alarm.text for alarm in status.alarms}
    (text,) = [text for id, text in found.items() if id.startswith(sim_faults.OTHERS)]
    first = 1 + 10 + len(BAD_FRAMES) + 1
    assert f"btcusdt_20240808.gz line {first}: received at {1 << 63}: after 2100-01-01" in text
    assert text.endswith(f"and {status.counters['bad_lines'] - sim_faults.LINES_NAMED} more bad lines")
    gaps = [text for id, text in found.items() if id == "tape_gap"]
    assert gaps == [] if speed == "max" else "jumps ahead by 3599 s" in gaps[0]
    assert one.process.poll() is None
    one.fence()
    one.order_path(test_simd.place("late", 99))
    assert one.back().reason == reasons.TAPE_END, "and it answers"


def test_well_formed_orders_and_questions_with_values_of_no_order_are_refused_one_by_one(
    simd: Callable[..., test_simd.Simd],
) -> None:
    rows = [on_tape(test_simd.START_NS, test_simd.SNAPSHOT)]
    rows.append(on_tape(test_simd.START_NS + test_simd.FAR_NS, test_simd.diff(11)))
    one = simd(b"".join(rows), "1")
    one.start()
    one.lines(1)
    one.fence()
    place = test_simd.place("odd", 99)
    for number, fields in enumerate(
        (
            {"price": UINT64_MAX},
            {"price": -INT64_MAX},
            {"price": 0},
            {"quantity": UINT64_MAX},
            {"quantity": INT64_MAX},
            {"quantity": 0},
            {"quantity": -1},
            {"symbol": "X" * codec.NAME_MAX},
            {"market": ""},
            {"origin_ns": UINT64_MAX, "origin_seq": UINT64_MAX, "quantity": 0},
        )
    ):
        one.order_path(codec.replace(place, order_id=f"odd-{number}", **fields))
        assert one.back().state is orders.OrderState.REJECTED, fields
    one.order_path(codec.replace(place, symbol="X" * (codec.NAME_MAX + 1)))
    head = test_simd.envelope("omsd")
    one.order_path(orders.ExecutionsWanted(*head, UINT64_MAX, UINT64_MAX))
    assert (one.back().executions, one.accounts()) == ([], ([], 0))
    for message in (
        requests.SnapshotWanted(codec.VERSION, 1, 0, "m", None, UINT64_MAX),
        requests.SnapshotWanted(codec.VERSION, 1, 0, "m", None, -1),
    ):
        daemons.wait_for("taken", lambda message=message: one.market.send(codec.encode(message)))
    status = one.said(
        lambda message: (
            isinstance(message, control.Status) and message.counters.get("snapshots_not_there") == 2
        )
    )
    (alarm,) = status.alarms
    assert status.ready and status.counters["undecodable"] == 1 and "length <= 200" in alarm.text
    one.order_path(test_simd.place("good", 99))
    assert one.back().state is orders.OrderState.WORKING
    assert one.process is not None and one.process.poll() is None
