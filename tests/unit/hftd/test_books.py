"""bookd's state: what a lost frame, a new session and a gap do to the books, and what is published."""

from __future__ import annotations

import pytest

from controlplane.errors import InvalidInput
from hftd.engine.market import books
from hftd.wire import market, requests
from hftd.wire.market import Kind, Message

SECOND_NS = 1_000_000_000
BTC = requests.Instrument(0, "spot", "BTCUSDT", -8, -8, "spot")
ETH = requests.Instrument(1, "usdm", "ETHUSDT", -8, -8, "linear")


def introduce(one: requests.Instrument) -> Message:
    return Message(one.id, Kind.INSTRUMENT, 0, 0, 0, 0, 0, 0, 0, 0, [], [], requests.encode_instrument(one))


def snapshot(instrument: int, last: int, bid: int = 10, ask: int = 12, receive_ns: int = 1) -> Message:
    return Message(instrument, Kind.SNAPSHOT, 0, receive_ns, 0, 5, 0, last, 0, 0, [(bid, 1)], [(ask, 1)])


def diff(instrument: int, first: int, last: int, *bids: tuple[int, int], origin_ns: int = 7) -> Message:
    return Message(instrument, Kind.DIFF, 0, 2, 3, origin_ns, first, last, 0, 0, list(bids), [])


def trade(instrument: int, receive_ns: int, price: int, quantity: int) -> Message:
    return Message(instrument, Kind.TRADE, 1, receive_ns, 0, 0, 0, 0, 0, 9, [(price, quantity)], [])


class Stream:
    """A publisher's frames into Books, and what comes out of them as messages."""

    def __init__(self, session: int = 100) -> None:
        self.books = books.Books(SECOND_NS)
        self.session, self.sequence = session, 1

    def frame(self, *messages: Message) -> bytes:
        data = market.frame([market.pack(message) for message in messages], self.sequence, self.session)
        self.sequence += len(messages)
        return data

    def send(self, *messages: Message) -> list[Message]:
        self.books.frame(self.frame(*messages))
        return self.taken()

    def taken(self) -> list[Message]:
        packed, self.books.out = self.books.out, []
        return list(market.messages(market.frame(packed, 1, 1)))

    def lose(self, count: int = 1) -> None:
        self.sequence += count


def tops(messages: list[Message]) -> list[tuple[int, int, int]]:
    return [(one.instrument, one.bids[0][0], one.asks[0][0]) for one in messages if one.kind == Kind.TOP]


def statuses(messages: list[Message]) -> list[tuple[int, int]]:
    return [(one.instrument, one.flags) for one in messages if one.kind == Kind.STATUS]


@pytest.fixture
def stream() -> Stream:
    stream = Stream()
    stream.send(introduce(BTC), introduce(ETH), snapshot(0, 100), snapshot(1, 200, 20, 22))
    return stream


def test_an_instrument_is_introduced_before_its_status_and_wants_a_snapshot() -> None:
    stream = Stream()
    out = stream.send(introduce(BTC))
    assert [one.kind for one in out] == [Kind.INSTRUMENT, Kind.STATUS] and statuses(out) == [(0, 0)]
    assert stream.books.wanted == {0}


def test_a_snapshot_puts_a_book_in_step_and_publishes_its_best() -> None:
    stream = Stream()
    out = stream.send(introduce(BTC), snapshot(0, 100))
    assert statuses(out) == [(0, 0), (0, market.IN_STEP)] and tops(out) == [(0, 10, 12)]
    assert not stream.books.wanted


def test_a_top_carries_the_origin_of_what_changed_it_and_is_sent_only_when_changed(stream: Stream) -> None:
    out = stream.send(diff(0, 101, 101, (11, 4), origin_ns=77))
    assert tops(out) == [(0, 11, 12)] and out[0].origin_ns == 77 and out[0].last == 101
    assert stream.send(diff(0, 102, 102, (5, 1))) == []


def test_within_a_frame_only_the_last_top_goes_out_and_the_others_are_counted(stream: Stream) -> None:
    assert tops(stream.send(*(diff(0, n, n, (11, n)) for n in range(101, 106)))) == [(0, 11, 12)]
    assert stream.books.conflated == 4


def test_a_gap_is_counted_once_wants_a_snapshot_and_silences_the_instrument_alone(stream: Stream) -> None:
    out = stream.send(diff(0, 105, 106, (11, 1)), diff(0, 107, 107, (11, 2)), diff(1, 201, 201, (21, 1)))
    assert statuses(out) == [(0, 0)] and tops(out) == [(1, 21, 22)]
    assert stream.books.wanted == {0} and stream.books.total("gaps") == 1
    out = stream.send(snapshot(0, 106, 11, 13))
    assert statuses(out) == [(0, 1)] and tops(out) == [(0, 11, 13)] and stream.books.total("resyncs") == 1
    assert stream.books.entries[0].book.bids == {11: 2}


def test_a_lost_frame_empties_every_book(stream: Stream) -> None:
    stream.lose(3)
    assert statuses(stream.send(diff(0, 101, 101, (11, 1)))) == [(0, 0), (1, 0)]
    assert stream.books.lost == 3 and stream.books.wanted == {0, 1}


def test_a_new_session_empties_every_book_and_loses_nothing(stream: Stream) -> None:
    stream.session, stream.sequence = 101, 1
    assert not stream.books.frame(stream.frame(introduce(BTC)))
    assert stream.books.lost == 0 and stream.books.wanted == {0, 1}
    stream.taken()
    assert tops(stream.send(snapshot(0, 5, 1, 2))) == [(0, 1, 2)], "ids may go back in a new session"


def test_trades_pass_and_bars_close_by_receive_time(stream: Stream) -> None:
    assert [
        one.kind for one in stream.send(trade(0, SECOND_NS + 5, 10, 3), trade(0, SECOND_NS + 6, 12, 4))
    ] == [Kind.TRADE, Kind.TRADE]
    bar = stream.send(trade(1, 2 * SECOND_NS, 20, 1))[0]
    assert (bar.kind, bar.instrument, bar.event_ns, bar.trade_or_bar) == (Kind.BAR, 0, SECOND_NS, SECOND_NS)
    assert bar.bids == [(10, 12), (10, 12), (7, 2)]


def test_messages_of_an_unknown_instrument_are_counted_and_dropped(stream: Stream) -> None:
    assert stream.send(diff(9, 1, 1)) == [] and stream.books.unknown == 1


def test_a_damaged_frame_raises_and_the_rest_of_it_counts_as_lost(stream: Stream) -> None:
    data = stream.frame(diff(0, 101, 101, (11, 1)), diff(0, 102, 102))
    with pytest.raises(InvalidInput):
        stream.books.frame(data[:-10])
    stream.taken()
    stream.send(diff(0, 103, 103))
    assert stream.books.lost == 1 and 0 in stream.books.wanted


def test_an_id_that_means_another_instrument_is_a_new_book(stream: Stream) -> None:
    stream.send(introduce(requests.Instrument(0, "spot", "XRPUSDT", -8, -8, "spot")))
    assert stream.books.wanted == {0} and list(stream.books.plain()) == ["spot:XRPUSDT", "usdm:ETHUSDT"]


def test_the_answer_to_an_ask_is_plain_and_exact(stream: Stream) -> None:
    plain = stream.books.plain()["spot:BTCUSDT"]
    assert (plain["bid"], plain["ask"], plain["last"], plain["in_step"]) == (
        "0.0000001",
        "0.00000012",
        100,
        True,
    )
    assert plain["counts"] == {"instrument": 1, "snapshot": 1}


def test_a_snapshot_that_says_otherwise_is_the_book_and_is_said(stream: Stream) -> None:
    stream.send(diff(0, 101, 101))
    assert stream.send(snapshot(0, 101)) == [] and stream.books.entries[0].losses == 0
    out = stream.send(snapshot(0, 101, 9, 13))
    assert statuses(out) == [(0, 1)] and tops(out) == [(0, 9, 13)]
    entry = stream.books.entries[0]
    assert (
        entry.losses == 1 and "snapshot of update id 101 says otherwise" in entry.loss and not entry.trouble()
    )


def test_a_quote_that_contradicts_the_book_silences_it_until_a_snapshot(stream: Stream) -> None:
    stream.send(diff(0, 101, 101))
    quote = Message(0, Kind.TICKER, 0, 3, 0, 0, 0, 101, 0, 0, [(10, 2)], [(12, 1)])
    assert statuses(stream.send(quote)) == [(0, 0)] and stream.books.wanted == {0}
    assert "quote at update id 101" in stream.books.entries[0].trouble()
    assert tops(stream.send(snapshot(0, 101, 10, 12))) == [(0, 10, 12)]
