"""Accounts are exact or unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine import accounts, reasons
from hftd.wire.orders import Side

BTC = ("spot", "BTCUSDT")


def test_a_buy_moves_cash_to_quantity_and_a_sell_back() -> None:
    kept = accounts.Accounts()
    assert kept.book(*BTC, Side.BUY, 61_829_77000000, 500_000) == ""  # 0.005 at 61,829.77
    assert kept.of(*BTC) == accounts.Account(500_000, -309_14885000)
    assert kept.book(*BTC, Side.SELL, 61_830_00000000, 500_000) == ""
    assert kept.of(*BTC) == accounts.Account(0, 115000)


def test_a_notional_that_is_not_whole_is_refused_and_nothing_is_booked() -> None:
    kept = accounts.Accounts()
    assert kept.book(*BTC, Side.BUY, 61_829_77000001, 1) == reasons.NOT_WHOLE
    assert kept.of(*BTC) == accounts.Account() and list(kept) == []


@pytest.mark.parametrize(
    ("quantity", "cash", "side"),
    [
        (accounts.INT64_MAX, 0, Side.BUY),
        (accounts.INT64_MIN, 0, Side.SELL),
        (0, accounts.INT64_MIN, Side.BUY),
        (0, accounts.INT64_MAX, Side.SELL),
    ],
)
def test_a_sum_past_64_bits_is_refused_not_wrapped(quantity: int, cash: int, side: Side) -> None:
    kept = accounts.Accounts()
    kept.restore(*BTC, quantity, cash)
    assert kept.book(*BTC, side, accounts.UNIT, 1) == reasons.OVERFLOW
    assert kept.of(*BTC) == accounts.Account(quantity, cash)


def test_accounts_come_in_order_and_are_not_the_readers_to_change() -> None:
    kept = accounts.Accounts()
    kept.restore("usdm", "BTCUSDT", 2, 0)
    kept.restore("spot", "ETHUSDT", 1, 0)
    kept.of("usdm", "BTCUSDT").quantity = 99
    assert [(market, symbol, account.quantity) for market, symbol, account in kept] == [
        ("spot", "ETHUSDT", 1),
        ("usdm", "BTCUSDT", 2),
    ]


fills = st.lists(
    st.tuples(st.sampled_from(list(Side)), st.integers(1, 10**13), st.integers(1, 10**12)), max_size=30
)


@given(fills)
def test_cash_and_quantity_are_the_sum_of_what_was_booked(booked: list[tuple[Side, int, int]]) -> None:
    kept = accounts.Accounts()
    quantity = cash = 0
    for side, price, amount in booked:
        if kept.book(*BTC, side, price, amount) == "":
            sign = 1 if side is Side.BUY else -1
            quantity += sign * amount
            cash -= sign * price * amount // accounts.UNIT
            assert price * amount % accounts.UNIT == 0
    assert kept.of(*BTC) == accounts.Account(quantity, cash)
    assert accounts.fits(quantity) and accounts.fits(cash)
