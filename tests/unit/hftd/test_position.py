"""Positions: each execution once, sums that equal the venue's, P&L whose parts add up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.engine import accounts, fixed, position, reasons
from hftd.engine.position import Execution, Positions
from hftd.storage import position_log
from hftd.wire import codec, orders
from hftd.wire.orders import Side

ONE = fixed.UNIT
TICK, STEP = ONE // 100, ONE // 1000

fills = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.integers(1, 10_000_000).map(lambda n: n * TICK),
        st.integers(1, 5000).map(lambda n: n * STEP),
    ),
    min_size=1,
    max_size=30,
)


def executions(made: list[tuple[Side, int, int]]) -> list[Execution]:
    return [Execution(n, "spot", "BTCUSDT", *fill) for n, fill in enumerate(made, start=1)]


@given(made=fills, data=st.data())
def test_executions_in_any_order_and_repeated_give_the_venues_sums(
    made: list[tuple[Side, int, int]], data: st.DataObject
) -> None:
    venue, ours = accounts.Accounts(), Positions()
    for each in executions(made):
        assert venue.book(each.market, each.symbol, each.side, each.price, each.quantity) == ""
    for each in data.draw(st.permutations(executions(made) * 2)):
        if each.id not in ours.seen:
            ours.apply(each)
    held, kept = ours.of("spot", "BTCUSDT"), venue.of("spot", "BTCUSDT")
    assert (held.quantity, held.cash) == (kept.quantity, kept.cash)
    assert ours.seen.up_to == len(made) and not ours.seen.above


@given(made=fills, mark=st.integers(1, 10_000_000).map(lambda n: n * TICK))
def test_realised_and_unrealised_add_up_to_what_the_account_is_worth(
    made: list[tuple[Side, int, int]], mark: int
) -> None:
    ours = Positions()
    for each in executions(made):
        ours.apply(each)
    ours.mark("spot", "BTCUSDT", mark)
    held = ours.of("spot", "BTCUSDT")
    worth = held.cash + held.quantity * mark // ONE
    assert held.realised + held.unrealised == worth
    prices = [price for _, price, _ in made]
    assert held.quantity == 0 or min(prices) - 1 <= held.average_price <= max(prices) + 1


def test_average_cost_realises_what_was_closed() -> None:
    ours = Positions()
    for n, (side, price, quantity) in enumerate(
        [(Side.BUY, 100, 2), (Side.BUY, 110, 2), (Side.SELL, 120, 1), (Side.SELL, 100, 4)], start=1
    ):
        ours.apply(Execution(n, "spot", "ETHUSDT", side, price * ONE, quantity * ONE))
        if n == 3:
            held = ours.of("spot", "ETHUSDT")
            assert (held.quantity, held.average_price, held.realised) == (3 * ONE, 105 * ONE, 15 * ONE)
    ours.mark("spot", "ETHUSDT", 90 * ONE)
    held = ours.of("spot", "ETHUSDT")
    assert (held.quantity, held.average_price, held.realised, held.unrealised) == (
        -ONE,
        100 * ONE,
        0,
        10 * ONE,
    )
    assert held.last_execution == 4


def test_a_fill_that_cannot_be_booked_exactly_changes_nothing_and_is_not_asked_for_again() -> None:
    ours = Positions()
    assert ours.apply(Execution(1, "spot", "BTCUSDT", Side.BUY, 3, 7)) == reasons.NOT_WHOLE
    assert ours.of("spot", "BTCUSDT").quantity == 0 and ours.seen.up_to == 1 and list(ours) == []


def test_a_hole_holds_the_acknowledgement_back_until_it_is_filled() -> None:
    ours = Positions()
    for id in (1, 2, 5, 4):
        ours.apply(Execution(id, "spot", "BTCUSDT", Side.BUY, ONE, ONE))
    assert ours.seen.up_to == 2 and 4 in ours.seen and 3 not in ours.seen
    ours.apply(Execution(3, "spot", "BTCUSDT", Side.BUY, ONE, ONE))
    assert ours.seen.up_to == 5


def test_that_a_gap_holds_nothing_is_known_when_as_many_are_there_as_there_should_be() -> None:
    seen = position.Seen()
    for id in (7, 1_000, 1_003):
        seen.add(id)
    assert not seen.told(0, 1_000, 3) and not seen.told(0, 1_000, 1) and not seen.told(7, 1_000, 1)
    assert seen.up_to == 0
    assert seen.told(0, 1_000, 2) and (seen.up_to, seen.above) == (1_000, {1_003})
    assert not seen.told(0, 1_000, 2), "it is further already"
    seen.add(1_002)
    assert seen.told(1_000, 1_002, 1) and (seen.up_to, seen.above) == (1_003, set())


def test_an_inventory_counts_a_fill_once_whoever_tells_it_first() -> None:
    inventory = position.Inventory()
    assert not inventory.known
    inventory.told(5, 10)
    inventory.filled(10, Side.BUY, 99)
    inventory.filled(11, Side.BUY, 3)
    inventory.filled(11, Side.BUY, 3)
    inventory.filled(12, Side.SELL, 1)
    assert inventory.quantity == 7
    inventory.told(8, 11)
    assert inventory.quantity == 7
    inventory.told(7, 12)
    inventory.filled(12, Side.SELL, 1)
    assert inventory.quantity == 7


BIG = 10**18
"""Units: 10^10 of a base currency."""


def booked_at(price: int, *sides: Side) -> Positions:
    ours = Positions()
    for n, side in enumerate(sides, start=1):
        assert ours.apply(Execution(n, "spot", "BTCUSDT", side, price, BIG)) == ""
    return ours


def test_a_figure_over_64_bits_is_given_as_the_nearest_that_fits_and_named() -> None:
    ours = booked_at(ONE, Side.BUY)
    ours.mark("spot", "BTCUSDT", 60_000 * ONE)
    held = ours.of("spot", "BTCUSDT")
    assert (held.quantity, held.cash, held.average_price, held.realised) == (BIG, -BIG, ONE, 0)
    assert held.unrealised == accounts.INT64_MAX and held.saturated == ("unrealised",) and not held.doubtful
    ours = booked_at(ONE, Side.SELL)
    ours.mark("spot", "BTCUSDT", 60_000 * ONE)
    assert ours.of("spot", "BTCUSDT").unrealised == accounts.INT64_MIN
    ours.mark("spot", "BTCUSDT", ONE)
    assert ours.of("spot", "BTCUSDT").saturated == ()


def test_an_execution_that_passes_64_bits_makes_its_instrument_doubtful_and_no_other() -> None:
    ours = booked_at(ONE, Side.BUY)
    assert ours.apply(Execution(2, "spot", "BTCUSDT", Side.BUY, 60_000 * ONE, BIG)) == reasons.OVERFLOW
    assert ours.apply(Execution(3, "spot", "ETHUSDT", Side.BUY, ONE, ONE)) == ""
    assert ours.of("spot", "BTCUSDT").doubtful and not ours.of("spot", "ETHUSDT").doubtful
    again = Positions.load(msgspec.json.decode(msgspec.json.encode(ours.dump()), type=position.PositionsDump))
    assert again.refused == {("spot", "BTCUSDT"): (2, reasons.OVERFLOW)} and again.dump() == ours.dump()


def test_a_snapshot_of_the_first_release_has_no_doubts() -> None:
    old = b'{"up_to":1,"above":[],"rows":[]}'
    assert Positions.load(msgspec.json.decode(old, type=position.PositionsDump)).refused == {}


ANY_UNITS = st.one_of(
    st.integers(-5, 5), st.integers(0, 1 << 64), st.sampled_from([ONE, BIG, 1 << 63, 1 << 62])
)


def test_what_is_open_without_a_price_is_not_worth_nothing() -> None:
    ours = Positions()
    for each in executions([(Side.BUY, ONE, ONE)]):
        ours.apply(each)
    assert not ours.of("spot", "BTCUSDT").marked
    ours.mark("spot", "BTCUSDT", 2 * ONE)
    held = ours.of("spot", "BTCUSDT")
    assert held.marked and held.unrealised == ONE


@given(
    made=st.lists(st.tuples(st.sampled_from(Side), ANY_UNITS, ANY_UNITS), max_size=12),
    mark=ANY_UNITS,
)
def test_whatever_is_executed_can_be_published_and_kept(made: list[tuple[Side, int, int]], mark: int) -> None:
    ours = Positions()
    ours.mark("spot", "BTCUSDT", mark)
    for each in executions(made):
        ours.apply(each)
    held = ours.of("spot", "BTCUSDT")
    codec.encode(
        orders.Position(
            *codec.no_head("positiond"), "spot", "BTCUSDT", held.quantity, held.cash, held.average_price,
            held.realised, held.unrealised, held.last_execution, held.doubtful,
        )
    )  # fmt: skip
    again = Positions.load(msgspec.json.decode(msgspec.json.encode(ours.dump()), type=position.PositionsDump))
    assert again.dump() == ours.dump()
    assert ours.seen.up_to == len(made)


def test_an_inventory_takes_no_fill_that_is_none_and_keeps_the_doubt() -> None:
    inventory = position.Inventory()
    inventory.told(5, 1)
    inventory.filled(2, Side.BUY, -3)
    inventory.filled(3, Side.BUY, 0)
    assert inventory.quantity == 5 and not inventory.doubtful
    inventory.told(5, 1, doubtful=True)
    assert inventory.doubtful
    inventory.told(5, 1)
    assert not inventory.doubtful


# --- on disk ------------------------------------------------------------------------------------------------


def some(first: int, last: int) -> list[Execution]:
    return [
        Execution(n, "spot", "BTCUSDT", Side.BUY if n % 3 else Side.SELL, n * TICK, STEP)
        for n in range(first, last + 1)
    ]


def test_positions_survive_without_a_close_and_over_a_fold(tmp_path: Path) -> None:
    log = position_log.PositionLog(tmp_path)
    for each in some(1, 7):
        log.append(each)
    log.fold()
    for each in some(8, 9):
        log.append(each)
    log.append(Execution(12, "usdm", "ETHUSDT", Side.SELL, TICK, STEP))
    again = position_log.PositionLog(tmp_path)  # the first was never closed: as after kill -9
    assert again.positions.dump() == log.positions.dump() and again.records == 3 and again.torn_bytes == 0
    assert again.positions.seen.up_to == 9 and 12 in again.positions.seen
    log.close()
    again.close()


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_a_torn_record_is_cut_and_comes_again(tmp_path: Path, cut: int) -> None:
    log = position_log.PositionLog(tmp_path)
    for each in some(1, 4):
        log.append(each)
    log.close()
    path = tmp_path / "executions.log"
    path.write_bytes(path.read_bytes()[:-cut])
    again = position_log.PositionLog(tmp_path)
    assert again.positions.seen.up_to == 3 and again.torn_bytes
    again.append(some(4, 4)[0])
    assert again.positions.dump() == log.positions.dump()
    again.close()


def test_a_crash_between_snapshot_and_emptied_log_books_nothing_twice(tmp_path: Path) -> None:
    log = position_log.PositionLog(tmp_path)
    for each in some(1, 5):
        log.append(each)
    before = (tmp_path / "executions.log").read_bytes()
    log.fold()
    log.close()
    (tmp_path / "executions.log").write_bytes(before)
    again = position_log.PositionLog(tmp_path)
    assert again.positions.dump() == log.positions.dump()
    again.close()


def test_a_snapshot_that_does_not_decode_is_an_error_not_a_zero(tmp_path: Path) -> None:
    (tmp_path / "positions.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"positions\.json"):
        position_log.PositionLog(tmp_path)


@given(units=st.integers(-(1 << 62), 1 << 62))
def test_decimals_are_exact_both_ways(units: int) -> None:
    assert fixed.parse(fixed.text(units)) == units


@pytest.mark.parametrize("bad", ["", "1e3", ".5", "1.", "0.123456789", "1,5", "99999999999999", "nan", " 1"])
def test_what_is_no_exact_decimal_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        fixed.parse(bad)
