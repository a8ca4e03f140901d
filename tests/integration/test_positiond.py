"""positiond as a process: every execution booked once over kill -9, stale tokens refused, positions published
and told exactly.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftd import bus
from hftd.engine import fixed, reasons
from hftd.wire import codec, orders
from tests.support import daemons

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
    frame = codec.encode(
        orders.Attach(1, 0, 0, "omsd-alpha-1", codec.TokenOnWire(7, "omsd", epoch), CLAIMANT)
    )
    daemons.wait_for("positiond takes the link", lambda: omsd.send(frame))
    answer = daemons.receive(omsd.socket, decode, lambda message: isinstance(message, orders.Attached))
    assert isinstance(answer, orders.Attached)
    return answer


def send(
    omsd: bus.link.Dealer, execution: int, side: orders.Side, price: int, quantity: int, epoch: int = 1
) -> None:
    token = codec.TokenOnWire(7, "omsd", epoch)
    report = orders.Report(
        1, 0, 0, "omsd-alpha-1", token, 0, execution, f"omsd-1-{execution}", f"mm-1-{execution}", "mm",
        "spot", "BTCUSDT", side,
        orders.OrderState.FILLED, price * ONE, quantity * ONE, quantity * ONE, price * ONE, quantity * ONE,
        "", "", 0,
    )  # fmt: skip
    assert omsd.send(codec.encode(report))


def seen(omsd: bus.link.Dealer, up_to: int) -> None:
    daemons.receive(
        omsd.socket,
        decode,
        lambda message: isinstance(message, orders.ReportsSeen) and message.up_to == up_to,
    )


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
            return bool(positiond.ask("positions")[0]["unrealised"] != "0")

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
