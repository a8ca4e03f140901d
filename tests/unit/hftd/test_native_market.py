"""The native decoder of market data says what its Python twin says, or nothing. Bytes that nobody expected
are the greater part of it.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.native import market as native
from hftd.venues import base, binance, intake
from hftd.wire import market, requests
from tests.support import twins
from tests.unit.hftd import test_binance, test_market_wire

RECEIVE_NS, ORIGIN_NS = 1_723_161_255_000_000_001, 77
PLAIN = {
    "spot diff": test_binance.SPOT_DIFF,
    "futures diff": test_binance.FUTURES_DIFF,
    "spot ticker": test_binance.SPOT_TICKER,
    "coin-m ticker": test_binance.COINM_TICKER,
    "futures trade": test_binance.TRADE,
    "simulated diff": binance.diff(
        "BTCUSDT", 5, 7, 8, [(6180020000000, 290900000), (1, 1)], [(6180030000000, 0)]
    ),
    "simulated ticker": binance.ticker("BTCUSDT", 6, (0, 0, 11, 2)),
    "simulated trade": binance.trade("BTCUSDT", 5, 77, 10, 1, buyer_is_maker=True),
}
DIFF, TRADE = PLAIN["spot diff"], PLAIN["futures trade"]


@pytest.fixture(autouse=True, scope="module")
def built() -> None:
    twins.need_native()


def pack_line(raw: bytes, symbol: str = "", receive_ns: int = RECEIVE_NS) -> tuple[int, int, bytes] | None:
    assert native.pack_line is not None
    return native.pack_line(raw, symbol, 3, receive_ns, ORIGIN_NS)


def normalise(raw: bytes, symbol: str = "", receive_ns: int = RECEIVE_NS) -> market.Message | None:
    assert native.normalise is not None
    return native.normalise(raw, symbol, 3, receive_ns, ORIGIN_NS, market.Message)


def unpack(data: bytes) -> list[market.Message] | None:
    assert native.unpack is not None
    return native.unpack(data, market.Message)


def twin(
    raw: bytes, symbol: str = "", receive_ns: int = RECEIVE_NS
) -> market.Message | base.Undecodable | None:
    with twins.python_alone():
        return binance.Normaliser("spot", 3, symbol)(raw, receive_ns, ORIGIN_NS)


def check(raw: bytes, symbol: str = "", receive_ns: int = RECEIVE_NS) -> bool:
    """Both functions say what the twin says, or nothing; True when they say it. What the twin takes always
    fits into a record.
    """
    packed, message = pack_line(raw, symbol, receive_ns), normalise(raw, symbol, receive_ns)
    expected = twin(raw, symbol, receive_ns)
    if isinstance(expected, market.Message):
        assert market.pack(expected)
    if message is None:
        assert packed is None
        return False
    assert isinstance(expected, market.Message), (raw, expected)
    assert message == expected and type(message) is market.Message
    assert packed == (expected.kind, expected.event_ns, market.pack(expected))
    assert [*map(type, message)] == [*map(type, expected)]
    return True


@pytest.mark.parametrize("raw", PLAIN.values(), ids=PLAIN.keys())
def test_plain_lines_are_taken_and_equal(raw: bytes) -> None:
    assert check(raw)


def test_golden_bytes_of_a_line() -> None:
    record = (
        "03000201030000000200000000000000"  # instrument, DIFF, flags, 3 levels, 2 of them bids, no payload
    )
    times = struct.pack("<qqq", RECEIVE_NS, 1723161255208_000_000, ORIGIN_NS).hex()
    ids = struct.pack("<QQQQ", 50093239189, 50093239202, 0, 0).hex()
    levels = struct.pack("<6q", 6173763000000, 0, 5685458000000, 100000, 6183764000000, 154698000).hex()
    assert pack_line(DIFF) == (
        market.Kind.DIFF,
        1723161255208_000_000,
        bytes.fromhex(record.replace("0201", "0200", 1) + times + ids + levels),
    )


def test_golden_bytes_of_a_frame() -> None:
    data = bytes.fromhex(test_market_wire.GOLDEN)
    assert unpack(data) == [test_market_wire.MESSAGE]
    assert unpack(data + b"what comes after the last record is not looked at") == [test_market_wire.MESSAGE]


@pytest.mark.parametrize(
    "raw",
    [
        DIFF.replace(b'"b":[["61737.63000000","0.00000000"],["56854.58000000","0.00100000"]]', b'"b":[]'),
        DIFF.replace(b'"U":50093239189,"u":50093239202', b'"u":50093239202,"U":50093239189'),
        DIFF.replace(b'"E":1723161255208', b'"news":"of a key","n":0,"E":1723161255208'),
        DIFF.replace(b'"E":1723161255208', b'"E":4102444800000'),
        DIFF.replace(b'"U":50093239189', b'"U":45798271906'),
        DIFF.replace(b'"U":50093239189,"u":50093239202', b'"U":1,"u":4294967297'),
        DIFF.replace(b'"U":50093239189,"u":50093239202', b'"U":999999999999999998,"u":999999999999999999'),
        DIFF.replace(b"61737.63000000", b"000000000001.00000001"),
        DIFF.replace(b"61737.63000000", b"92233720368.54775807"),
        TRADE.replace(b'"0.006"', b'"0.006000000000000000"'),
        TRADE.replace(b'"0.006"', b'"0"'),
        TRADE.replace(b'"m":true', b'"m":false'),
        TRADE.replace(b'"X":"MARKET",', b""),
        TRADE.replace(b'"E":1723161256322', b'"E":100000000000000'),
        TRADE.replace(b'"E":1723161256322', b'"E":4102444800000000'),
        DIFF.replace(b'"E":1723161255208', b'"E":1723161255208456'),
        DIFF.replace(b"@depth@100ms", b"@depth"),
        DIFF.replace(b"@depth@100ms", b"@depth@99999ms"),
    ],
)
def test_the_edge_of_what_is_plain(raw: bytes) -> None:
    assert raw not in PLAIN.values() and check(raw, "BTCUSDT")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        DIFF + b"\n",
        DIFF + b"x",
        b" " + DIFF,
        DIFF[:-1],
        DIFF.replace(b'"data":', b'"data": '),
        DIFF.replace(b'"U":50093239189', b'"U":50093239189,"U":1'),
        DIFF.replace(b'"U":50093239189,', b""),
        DIFF.replace(b'"U":50093239189', b'"U":-1'),
        DIFF.replace(b'"U":50093239189', b'"U":01'),
        DIFF.replace(b'"U":50093239189', b'"U":1.0'),
        DIFF.replace(b'"U":50093239189', b'"U":"1"'),
        DIFF.replace(b'"U":50093239189', b'"U":50093239203'),
        DIFF.replace(b'"u":50093239202', b'"u":9223372036854775808'),
        DIFF.replace(b'"E":1723161255208', b'"E":4102444800001'),
        DIFF.replace(b'"U":50093239189', b'"U":45798271905'),
        DIFF.replace(b'"U":50093239189', b'"U":0'),
        DIFF.replace(b'"U":50093239189', b'"pu":45798271905,"U":50093239189'),
        DIFF.replace(b'"U":50093239189', b'"pu":999999999999999999999,"U":50093239189'),
        DIFF.replace(b"depthUpdate", b"depthupdate"),
        DIFF.replace(b"BTCUSDT", b"\\u0042TCUSDT"),
        DIFF.replace(b"BTCUSDT", b"BTCUSD\xff"),
        DIFF.replace(b"BTCUSDT", b"ETHUSDT"),
        DIFF.replace(b"61737.63000000", b"0.00"),
        DIFF.replace(b"61737.63000000", b"-0"),
        DIFF.replace(b"61737.63000000", b"1."),
        DIFF.replace(b"61737.63000000", b".1"),
        DIFF.replace(b"61737.63000000", b"1e5"),
        DIFF.replace(b"61737.63000000", b"0.000000001"),
        DIFF.replace(b"61737.63000000", b"0.0000000100000000000"),
        DIFF.replace(b"61737.63000000", b"92233720368.54775808"),
        DIFF.replace(b"61737.63000000", b"0000000000001"),
        DIFF.replace(b'"61737.63000000"', b"61737.63"),
        DIFF.replace(b'["61737.63000000","0.00000000"]', b'["61737.63000000"]'),
        DIFF.replace(b'["61737.63000000","0.00000000"]', b'["1","2","3"]'),
        DIFF.replace(b'["61737.63000000","0.00000000"]', b'["1","2"],'),
        DIFF.replace(b'"E"', b'"x":null,"E"'),
        DIFF.replace(b'"E"', b'"x":{},"E"'),
        DIFF.replace(b"btcusdt@depth", b"btcusdt@kline"),
        DIFF.replace(b"btcusdt@", b"b" * 60 + b"@"),
        DIFF.replace(b"@depth@100ms", b"@depth5@100ms"),
        DIFF.replace(b"@depth@100ms", b"@depth20"),
        DIFF.replace(b"@depth@100ms", b"@depth@"),
        DIFF.replace(b"@depth@100ms", b"@depth@100000ms"),
        DIFF.replace(b"@depth@100ms", b"@depth@100msx"),
        DIFF.replace(b"btcusdt@depth@100ms", b"!depth"),
        DIFF.replace(b"btcusdt@depth@100ms", b"@depth"),
        DIFF.replace(b'"E":1723161255208', b'"E":99999999999999'),
        DIFF.replace(b'"E":1723161255208', b'"E":4102444800000001'),
        TRADE.replace(b"@trade", b"@tradeX"),
        TRADE.replace(b"@trade", b"@tr"),
        TRADE.replace(b'"MARKET"', b'"ADL"'),
        TRADE.replace(b'"MARKET"', b'"market"'),
        TRADE.replace(b'"MARKET"', b"null"),
        TRADE.replace(b'"e":"trade"', b'"e":"aggTrade"'),
        PLAIN["coin-m ticker"].replace(b'"e":"bookTicker"', b'"e":"ticker"'),
        TRADE.replace(b"61800.30", b"0"),
        TRADE.replace(b'"m":true', b'"m":1'),
        test_binance.SNAPSHOT,
        b'{"result":null,"id":1}',
        b'{"stream":"',
        b'{"stream":"x@de","data":{',
    ],
)
def test_whatever_is_not_plain_is_left_to_python(raw: bytes) -> None:
    assert pack_line(raw, "BTCUSDT") is None and normalise(raw, "BTCUSDT") is None


def test_asks_before_bids_are_left_to_python_and_come_out_in_order() -> None:
    raw = b'{"stream":"x@depth","data":{"e":"depthUpdate","E":1,"s":"X","U":1,"u":2,'
    raw += b'"a":[["2","1"]],"b":[["1","1"]]}}'
    assert not check(raw)
    found = binance.Normaliser("spot")(raw, 1)
    assert isinstance(found, market.Message) and (found.bids, found.asks) == (
        [(10**8, 10**8)],
        [(2 * 10**8, 10**8)],
    )


def test_the_most_levels_fit_and_one_more_is_left_to_python() -> None:
    def diff(count: int) -> bytes:
        return binance.diff("X", 1, 1, 2, [(n, 0) for n in range(1, count)], [(1, 0)])

    found = normalise(diff(market.LEVELS_MAX))
    assert found is not None and len(found.bids) + len(found.asks) == market.LEVELS_MAX
    assert normalise(diff(market.LEVELS_MAX + 1)) is None


def test_what_does_not_fit_into_a_record_is_left_to_python() -> None:
    assert native.pack_line is not None
    assert native.pack_line(DIFF, "", 65_535, 0, -(2**63)) is not None
    assert native.pack_line(DIFF, "", 65_535, market.TIME_NS_MAX, 2**63 - 1) is not None
    assert native.pack_line(DIFF, "", 0, market.TIME_NS_MAX + 1, 0) is None
    assert native.pack_line(DIFF, "", 0, -1, 0) is None
    assert native.pack_line(DIFF, "", 65_536, 0, 0) is None
    assert native.pack_line(DIFF, "", -1, 0, 0) is None
    assert native.pack_line(DIFF, "", 0, 2**63, 0) is None
    assert native.pack_line(DIFF, "", 0, 0, -(2**63) - 1) is None
    assert native.pack_line(DIFF, "BTCÜSDT", 0, 0, 0) is None
    assert native.pack_line(bytearray(DIFF), "", 0, 0, 0) is None  # type: ignore[arg-type]


def test_wrong_use_is_an_error() -> None:
    assert native.pack_line is not None and native.unpack is not None
    with pytest.raises(TypeError):
        native.pack_line(DIFF)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        native.unpack(b"", int)
    with pytest.raises(TypeError):
        native.unpack(b"", market)  # type: ignore[arg-type]


def test_intake_says_the_same_of_every_line_and_counts_the_same() -> None:
    def taken() -> Iterator[object]:
        one = intake.Intake([requests.Instrument(3, "spot", "BTCUSDT", -8, -8, "spot")])
        for raw in [*PLAIN.values(), test_binance.SNAPSHOT, DIFF[:-1], TRADE.replace(b"61800.30", b"0")]:
            yield one.line(3, raw, RECEIVE_NS, ORIGIN_NS)
        yield one.line(4, DIFF, RECEIVE_NS, ORIGIN_NS)
        yield one.totals()
        yield one.offsets["spot"].median_ns()

    with twins.python_alone():
        expected = [*taken()]
    assert [*taken()] == expected


def test_a_variable_switches_it_off() -> None:
    code = "from hftd.native import market; print(market.pack_line, market.normalise, market.unpack)"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"HFT_NATIVE": "0"}, capture_output=True, text=True, check=True
    )
    assert found.stdout == "None None None\n"


# --- bytes that nobody expected -----------------------------------------------------------------------------

TOKENS = [
    b'"',
    b"\\",
    b",",
    b":",
    b"[",
    b"]",
    b"{",
    b"}",
    b"0",
    b"9",
    b".",
    b"-",
    b"e",
    b" ",
    b"\0",
    b"\xff",
    b"null",
    b"true",
    b'"pu":1,',
    b'"b":[],',
    b"@",
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Up to four wounds: a cut, a flipped byte, an inserted or a doubled piece."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        wound = draw(st.sampled_from(["cut", "end", "flip", "insert", "double"]))
        if wound == "cut":
            data = data[:at] + data[to:]
        elif wound == "end":
            data = data[:at]
        elif wound == "flip":
            data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        elif wound == "insert":
            data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
        else:
            data = data[:to] + data[at:to] + data[to:]
    return data


@given(st.sampled_from([*PLAIN.values()]).flatmap(damaged), st.sampled_from(["", "BTCUSDT"]))
@settings(max_examples=1500)
def test_a_damaged_line_is_decoded_like_the_twin_or_not_at_all(raw: bytes, symbol: str) -> None:
    check(raw, symbol)


@given(st.from_regex(rb"[0-9]{0,13}(\.[0-9]{0,19})?", fullmatch=True))
@settings(max_examples=800)
@example(b"92233720368.547758070")
@example(b"0.00000000000000000")
def test_a_number_is_read_like_the_twin_reads_it(number: bytes) -> None:
    raw = TRADE.replace(b"0.006", number)
    assert check(raw) == isinstance(twin(raw), market.Message)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("eEsTUutpqmbaBAxX"),
            st.sampled_from(
                ['"1"', '"X"', "1", "0", "true", "[]", '[["1","2"]]', '"depthUpdate"', '"trade"', '"MARKET"']
            ),
        ),
        max_size=12,
    )
)
@settings(max_examples=800)
def test_members_in_any_order_and_of_any_type(pairs: list[tuple[str, str]]) -> None:
    data = ",".join(f'"{key}":{value}' for key, value in pairs)
    for stream in ("depth", "trade", "bookTicker", "depth5@100ms"):
        check(f'{{"stream":"x@{stream}","data":{{{data}}}}}'.encode())


EDGES = [0, 1, 10**18 - 1, 10**18, 4_102_444_800_000, 4_102_444_800_000_000, 1 << 32, 1 << 62]
EDGES += [10**14 - 1, 10**14, 10**19 - 1, 10**20]
EDGES += [(1 << bits) + off for bits in (63, 64, 127) for off in (-1, 0, 1)]
NUMBERS = st.one_of(
    st.integers(-2, 1 << 66),
    st.sampled_from(EDGES),
    st.sampled_from(["9" * 4_299, "9" * 4_301, "1e5", "1.0", "-0", "01"]),
)


@given(
    st.sampled_from(["depth", "trade", "bookTicker", "snapshot"]),
    st.fixed_dictionaries(dict.fromkeys(("E", "U", "u", "pu", "t", "lastUpdateId"), NUMBERS)),
    st.one_of(st.just(RECEIVE_NS), NUMBERS.filter(lambda n: isinstance(n, int))),
)
@settings(max_examples=1500)
@example("depth", {"E": 1, "U": 1, "u": 2, "pu": 1 << 64, "t": 0, "lastUpdateId": 0}, RECEIVE_NS)
@example("depth", {"E": 1, "U": 1, "u": 2, "pu": 1, "t": 0, "lastUpdateId": 0}, 1 << 63)
@example("depth", {"E": 1, "U": 1, "u": 2, "pu": 1, "t": 0, "lastUpdateId": 0}, market.TIME_NS_MAX)
@example("depth", {"E": 1, "U": 5, "u": 1 << 32, "pu": 5, "t": 0, "lastUpdateId": 0}, RECEIVE_NS)
def test_numbers_of_any_size_are_taken_or_said_to_be_wrong_and_never_more(
    stream: str, numbers: dict[str, int | str], receive_ns: int
) -> None:
    """Each number of each kind of line, at every edge; in C, in Python, and through marketd's intake."""
    given = {key: f'"{key}":{value}' for key, value in numbers.items()}
    levels = '"b":[["1","1"]],"a":[["2","1"]]'
    if stream == "snapshot":
        raw = f'{{{given["lastUpdateId"]},"bids":[["1","1"]],"asks":[]}}'.encode()
    else:
        members = {
            "depth": ("E", "U", "u", "pu"),
            "trade": ("E", "t"),
            "bookTicker": ("E", "u"),
        }[stream]
        body = ",".join(given[key] for key in members)
        rest = {
            "depth": f'"e":"depthUpdate",{levels}',
            "trade": '"p":"1","q":"1","m":true',
            "bookTicker": '"b":"1","B":"1","a":"2","A":"1"',
        }[stream]
        raw = f'{{"stream":"x@{stream}","data":{{"s":"X",{body},{rest}}}}}'.encode()
    check(raw, "", receive_ns)
    one = intake.Intake([requests.Instrument(3, "spot", "X", -8, -8, "spot")])
    found = one.line(3, raw, receive_ns, ORIGIN_NS)
    expected = twin(raw, "", receive_ns)
    if isinstance(expected, market.Message):
        assert found == market.pack(expected) and 0 <= receive_ns <= market.TIME_NS_MAX
    else:
        assert found == expected and isinstance(found, base.Undecodable) and len(found.reason) <= 200


@pytest.mark.parametrize("at", ["sequence", "session"])
def test_a_frame_whose_count_nearly_overflows_is_refused_by_both(at: str) -> None:
    count = {"sequence": 1, "session": 1, at: market.SEQUENCE_MAX}
    packed = [market.pack(test_market_wire.MESSAGE)]
    assert unpack(market.frame(packed, count["sequence"], count["session"])) == [test_market_wire.MESSAGE]
    data = market.frame(packed, *({**count, at: market.SEQUENCE_MAX + 1}.values()))
    assert unpack(data) is None
    with twins.python_alone(), pytest.raises(InvalidInput, match="over"):
        list(market.messages(data))


INT64, UINT64 = st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)
LEVELS = st.lists(st.tuples(INT64, INT64), max_size=5)
MESSAGES = st.builds(
    market.Message,
    st.integers(0, 65_535),
    st.integers(0, 255),
    st.integers(0, 255),
    INT64,
    INT64,
    INT64,
    UINT64,
    UINT64,
    UINT64,
    UINT64,
    LEVELS,
    LEVELS,
    st.binary(max_size=9),
)


@given(st.lists(MESSAGES, max_size=4))
@settings(max_examples=150)
def test_every_message_comes_back_from_its_frame(messages: list[market.Message]) -> None:
    assert unpack(market.frame([market.pack(message) for message in messages], 9, 1000)) == messages


FRAME = market.frame([market.pack(test_market_wire.MESSAGE)] * 3, 9, 1000)


@given(damaged(FRAME))
@settings(max_examples=1500)
def test_a_damaged_frame_is_read_like_the_twin_or_not_at_all(data: bytes) -> None:
    found = unpack(data)
    if found is not None:
        with twins.python_alone():
            assert found == list(market.messages(data))
