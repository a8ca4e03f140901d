"""positiond as a process: every execution booked once over kill -9, stale tokens refused, positions published
and told exactly.
"""

from __future__ import annotations

import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftd import bus
from hftd.engine import accounts, fixed, reasons
from hftd.storage import position_log
from hftd.wire import codec, control, orders
from tests.support import claims, daemons

CLAIMANT = codec.ProcessOnWire("omsd-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 1, 1)
ONE = fixed.UNIT
FromPositiond = orders.Attached | orders.ReportsSeen | orders.Refusal
decode: codec.Decoder[FromPositiond] = codec.Decoder(FromPositiond)


@pytest.fixture
def positiond(tmp_path: Path) -> Iterator[daemons.Daemon]:
    with daemons.daemon(tmp_path, "positiond") as one:
        yield one


@pytest.fixture
def bookd(tmp_path: Path) -> Iterator[daemons.Bookd]:
    one = daemons.Bookd(tmp_path)
    yield one
    one.close()


@pytest.fixture
def omsd(positiond: daemons.Daemon) -> Iterator[bus.link.Dealer]:
    dealer = bus.link.Dealer("omsd-alpha-1.1", positiond.endpoint("executions"))
    yield dealer
    dealer.close()


def attach(omsd: bus.link.Dealer, epoch: int) -> orders.Attached:
    claim = orders.Attach(1, 0, 0, "omsd-alpha-1", codec.TokenOnWire(7, "omsd", epoch), CLAIMANT)
    frame = codec.encode(claims.signed(claim, omsd, claims.site_of(omsd)))
    daemons.wait_for("positiond takes the link", lambda: omsd.send(frame))
    answer = daemons.receive(omsd.socket, decode, lambda message: isinstance(message, orders.Attached))
    assert isinstance(answer, orders.Attached)
    return answer


def send(
    omsd: bus.link.Dealer,
    execution: int,
    side: orders.Side,
    price: int,
    quantity: int,
    epoch: int = 1,
    *,
    symbol: str = "BTCUSDT",
    unit: int = ONE,
) -> None:
    token = codec.TokenOnWire(7, "omsd", epoch)
    price, quantity = price * unit, quantity * unit
    report = orders.Report(
        1, 0, 0, "omsd-alpha-1", token, 0, execution, f"omsd-1-{execution}", f"mm-1-{execution}", "mm",
        "spot", symbol, side,
        orders.OrderState.FILLED, price, quantity, quantity, price, quantity, "",
        "", 0,
    )  # fmt: skip
    assert omsd.send(codec.encode(report))


def seen(omsd: bus.link.Dealer, up_to: int) -> None:
    daemons.receive(
        omsd.socket,
        decode,
        lambda message: isinstance(message, orders.ReportsSeen) and message.up_to == up_to,
    )


def tell(omsd: bus.link.Dealer, after: int, up_to: int, count: int, epoch: int = 1) -> None:
    token = codec.TokenOnWire(7, "omsd", epoch)
    assert omsd.send(codec.encode(orders.ExecutionsTold(1, 0, 0, "omsd-alpha-1", token, after, up_to, count)))


def test_gaps_between_ids_are_acknowledged_when_omsd_says_that_they_hold_nothing(
    positiond: daemons.Daemon, omsd: bus.link.Dealer
) -> None:
    positiond.start([])
    assert attach(omsd, 1).last_seq == 0
    send(omsd, 1_000, orders.Side.BUY, 100, 2)
    send(omsd, 5_000, orders.Side.BUY, 100, 1, symbol="ETHUSDT")
    for after, up_to, count in ((0, 5_000, 3), (0, 5_000, 1), (1_000, 5_000, 1), (0, 4_999, 2)):
        tell(omsd, after, up_to, count)
        seen(omsd, 0)
    tell(omsd, 5_000, 0, 0)
    tell(omsd, -1, 1 << 63 - 1, 2)
    positiond.counted("unexpected")
    tell(omsd, 0, 5_000, 2)
    seen(omsd, 5_000)
    send(omsd, 5_001, orders.Side.SELL, 100, 1)
    seen(omsd, 5_001)
    positiond.end(signal.SIGKILL)

    positiond.start([])
    assert attach(omsd, 2).last_seq <= 5_001, "what it was told of gaps may be told again"
    tell(omsd, 0, 5_001, 3, epoch=1)
    refused = daemons.receive(omsd.socket, decode, lambda message: isinstance(message, orders.Refusal))
    assert refused.reason == reasons.STALE_TOKEN
    tell(omsd, 0, 5_001, 3, epoch=2)
    seen(omsd, 5_001)
    rows = {row["symbol"]: row["quantity"] for row in positiond.ask("positions")}
    assert rows == {"BTCUSDT": "1", "ETHUSDT": "1"}


def test_executions_are_booked_once_over_kill_9_whatever_their_order(
    positiond: daemons.Daemon, bookd: daemons.Bookd, omsd: bus.link.Dealer
) -> None:
    positiond.start(bookd.peers)
    published = bus.publish.Subscriber(positiond.endpoint("positions"))
    try:
        assert attach(omsd, 1).last_seq == 0
        send(omsd, 1, orders.Side.BUY, 100, 2)
        seen(omsd, 1)
        send(omsd, 3, orders.Side.SELL, 120, 1)
        send(omsd, 1, orders.Side.BUY, 100, 2)
        seen(omsd, 1)
        assert omsd.send(b"noise")
        positiond.counted("duplicates")
        positiond.end(signal.SIGKILL)

        positiond.start(bookd.peers)
        assert attach(omsd, 2).last_seq == 1
        send(omsd, 2, orders.Side.BUY, 110, 2, epoch=1)
        refused = daemons.receive(omsd.socket, decode, lambda message: isinstance(message, orders.Refusal))
        assert refused.reason == reasons.STALE_TOKEN
        assert positiond.counted("stale_token_refusals").counters["stale_token_refusals"] == 1
        send(omsd, 2, orders.Side.BUY, 110, 2, epoch=2)
        send(omsd, 3, orders.Side.SELL, 120, 1, epoch=2)
        seen(omsd, 3)
        told = daemons.receive(
            published.socket, orders.decode_position, lambda message: message.quantity == 3 * ONE
        )
        assert (told.cash, told.last_execution) == (-300 * ONE, 3)

        def marked() -> bool:
            bookd.instrument()
            bookd.top(129 * ONE, 131 * ONE)
            return positiond.ask("positions")[0]["unrealised"] not in ("0", None)

        daemons.wait_for("a mark", marked)
        # 2 at 100, 1 sold at 120 before the 2 at 110 came: average 310 / 3 is not whole, and what is rounded
        # is the split, never the sum.
        (row,) = positiond.ask("positions")
        assert (row["market"], row["symbol"], row["quantity"], row["cash"]) == (
            "spot",
            "BTCUSDT",
            "3",
            "-300",
        )
        assert fixed.parse(row["realised"]) + fixed.parse(row["unrealised"]) == 90 * ONE
        assert positiond.end() == 0
    finally:
        published.close()


def test_flat_instruments_are_told_too_so_that_risk_knows_they_are_flat(
    positiond: daemons.Daemon, bookd: daemons.Bookd
) -> None:
    positiond.start(bookd.peers)
    published = bus.publish.Subscriber(positiond.endpoint("positions"))
    try:

        def told() -> bool:
            bookd.instrument()
            bookd.top(129 * ONE, 131 * ONE)
            return bool(published.socket.poll(50))

        daemons.wait_for("a position", told)
        position = orders.decode_position(published.socket.recv())
        assert (position.symbol, position.quantity, position.last_execution) == ("BTCUSDT", 0, 0)
        assert positiond.ask("positions") == []
    finally:
        published.close()


HUGE = 10**10
"""BTC: 10^18 units fit into 64 bits; at any real price their worth does not."""


def alarms(positiond: daemons.Daemon, *ids: str) -> dict[str, control.AlarmOnWire]:
    """The alarms that stand once all of these do."""
    status = positiond.until(
        lambda message: (
            isinstance(message, control.Status) and set(ids) <= {alarm.id for alarm in message.alarms}
        )
    )
    return {alarm.id: alarm for alarm in status.alarms}


def value_at(bookd: daemons.Bookd, positiond: daemons.Daemon, price: int, symbol: str = "BTCUSDT") -> None:
    """Say a mark until positiond values the position by it."""

    def valued() -> bool:
        bookd.instrument()
        bookd.top(price * ONE, price * ONE)
        return any(
            row["unrealised"] not in ("0", None)
            for row in positiond.ask("positions")
            if row["symbol"] == symbol
        )

    daemons.wait_for("a mark", valued)


def test_an_execution_whose_worth_passes_64_bits_is_booked_shown_at_the_bound_and_alarmed(
    positiond: daemons.Daemon, bookd: daemons.Bookd, omsd: bus.link.Dealer
) -> None:
    """It came in at price 1, so that its own sums fit; what it is worth at the market's price does not. Over
    a kill and a stop the daemon comes up with it, and books what comes after.
    """
    positiond.start(bookd.peers)
    published = bus.publish.Subscriber(positiond.endpoint("positions"))
    try:
        attach(omsd, 1)
        send(omsd, 1, orders.Side.BUY, 1, HUGE)
        seen(omsd, 1)
        value_at(bookd, positiond, 60_000)
        for how in (signal.SIGKILL, signal.SIGTERM):
            found = alarms(positiond, "positions.saturated.spot.BTCUSDT")
            alarm = found["positions.saturated.spot.BTCUSDT"]
            assert alarm.severity == "critical" and alarm.subject == "spot:BTCUSDT"
            assert alarm.text.startswith("spot:BTCUSDT: unrealised over 64 bits;")
            told = daemons.receive(
                published.socket, orders.decode_position, lambda message: message.unrealised > 0
            )
            assert (told.quantity, told.unrealised) == (HUGE * ONE, accounts.INT64_MAX) and not told.doubtful
            status = positiond.end(how)
            assert status in (0, -signal.SIGKILL)
            positiond.start(bookd.peers)
            value_at(bookd, positiond, 60_000)
        assert attach(omsd, 2).last_seq == 1
        send(omsd, 2, orders.Side.SELL, 1, HUGE - 1, epoch=2)
        seen(omsd, 2)
        value_at(bookd, positiond, 60_000)
        (row,) = positiond.ask("positions")
        assert (row["quantity"], row["unrealised"]) == ("1", "59999")
        positiond.until(lambda message: isinstance(message, control.Status) and not message.alarms)
    finally:
        published.close()


@pytest.mark.parametrize(
    ("price", "quantity", "unit", "reason"),
    [
        (60_000, HUGE, ONE, reasons.OVERFLOW),
        (1, (1 << 64) - 1, 1, reasons.NOT_WHOLE),
        (ONE, (1 << 64) - 1, 1, reasons.OVERFLOW),
        (-1, 5, ONE, reasons.NOT_POSITIVE),
        (5, -1, ONE, reasons.NOT_POSITIVE),
    ],
)
def test_an_execution_that_cannot_be_booked_is_named_for_good_and_harms_no_other_instrument(
    positiond: daemons.Daemon,
    bookd: daemons.Bookd,
    omsd: bus.link.Dealer,
    price: int,
    quantity: int,
    unit: int,
    reason: str,
) -> None:
    positiond.start(bookd.peers)
    published = bus.publish.Subscriber(positiond.endpoint("positions"))
    try:
        attach(omsd, 1)
        send(omsd, 1, orders.Side.BUY, 100, 2)
        send(omsd, 2, orders.Side.BUY, price, quantity, unit=unit)
        send(omsd, 3, orders.Side.BUY, 10, 7, symbol="ETHUSDT")
        seen(omsd, 3)
        positiond.counted("not_booked")
        for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            found = alarms(positiond, "positions.refused.spot.BTCUSDT")
            assert found.keys() == {"positions.refused.spot.BTCUSDT"}
            alarm = found["positions.refused.spot.BTCUSDT"]
            assert alarm.severity == "critical" and "execution 2 of spot:BTCUSDT" in alarm.text
            assert reasons.text(reason) in alarm.text
            rows = {row["symbol"]: (row["quantity"], row["cash"]) for row in positiond.ask("positions")}
            assert rows == {"BTCUSDT": ("2", "-200"), "ETHUSDT": ("7", "-70")}
            # What was published of BTCUSDT before execution 2 came was right then.
            daemons.receive(
                published.socket,
                orders.decode_position,
                lambda message: message.symbol == "BTCUSDT" and message.doubtful,
            )
            other = daemons.receive(
                published.socket, orders.decode_position, lambda message: message.symbol == "ETHUSDT"
            )
            assert not other.doubtful
            positiond.end(how)
            positiond.start(bookd.peers)
        assert attach(omsd, 2).last_seq == 3
    finally:
        published.close()


def test_a_stored_record_that_is_no_execution_is_left_out_and_asked_for_again(
    tmp_path: Path, positiond: daemons.Daemon, bookd: daemons.Bookd, omsd: bus.link.Dealer
) -> None:
    positiond.start(bookd.peers)
    attach(omsd, 1)
    for execution in (1, 2, 3):
        send(omsd, execution, orders.Side.BUY, 100, 1)
    seen(omsd, 3)
    assert positiond.end() == 0
    log = tmp_path / "data-positiond-alpha-1" / "executions.log"
    data = log.read_bytes()
    first = position_log._HEAD.size + position_log._HEAD.unpack_from(data)[0]
    length = position_log._HEAD.unpack_from(data, first)[0]
    wrong = b"\xc1" * length
    record = position_log._HEAD.pack(length, zlib.crc32(wrong)) + wrong
    log.write_bytes(data[:first] + record + data[first + len(record) :])

    positiond.start(bookd.peers)
    text = alarms(positiond, "positions.log")["positions.log"].text
    assert "records left out that do not decode: 1, " in text and f"byte {first};" in text
    assert positiond.ask("positions")[0]["quantity"] == "2"
    assert attach(omsd, 2).last_seq == 1, "so that 2 comes again"
    send(omsd, 2, orders.Side.BUY, 100, 1, epoch=2)
    seen(omsd, 3)
    assert positiond.ask("positions")[0]["quantity"] == "3"


def test_a_report_that_is_no_execution_is_counted_and_dropped(
    positiond: daemons.Daemon, bookd: daemons.Bookd, omsd: bus.link.Dealer
) -> None:
    positiond.start(bookd.peers)
    attach(omsd, 1)
    send(omsd, 0, orders.Side.BUY, 1, 1)
    send(omsd, 1 << 63, orders.Side.BUY, 1, 1)
    send(omsd, (1 << 64) - 1, orders.Side.BUY, 1, 1)
    positiond.counted("unexpected", 3)
    send(omsd, 1, orders.Side.BUY, 1, 1, symbol="X" * 10_000)
    assert positiond.counted("undecodable").counters["undecodable"] == 1
    assert "a name of over 200 characters" in alarms(positiond, "undecodable")["undecodable"].text
    send(omsd, 1, orders.Side.BUY, 5, 1)
    seen(omsd, 1)
    assert [row["cash"] for row in positiond.ask("positions")] == ["-5"]
