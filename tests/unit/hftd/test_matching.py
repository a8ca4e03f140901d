"""The venue's matching: each rule as a list of what happens and the list of every event that it causes, then
what holds for all lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftd.engine import accounts, matching, reasons
from hftd.engine.orders import order
from hftd.wire.orders import Kind, OrderState, Side

BUY, SELL = Side.BUY, Side.SELL
LIMIT, POST, IOC = Kind.LIMIT, Kind.POST_ONLY, Kind.IOC
Levels = dict[int, int]


@dataclass
class Shown:
    """Two dicts stand in for the book of the tape. Prices in tests are whole units, so every notional is
    whole.
    """

    bids: Levels = field(default_factory=dict)
    asks: Levels = field(default_factory=dict)

    def best(self) -> tuple[int, int, int, int]:
        bid, ask = max(self.bids, default=0), min(self.asks, default=0)
        return bid, self.bids.get(bid, 0), ask, self.asks.get(ask, 0)


def priced(levels: Levels) -> Levels:
    return {price * accounts.UNIT: quantity for price, quantity in levels.items()}


class Venue:
    """One instrument's matching, driven by tuples."""

    def __init__(
        self, bids: Levels, asks: Levels, accept: matching.Accept | None = None, orders_max: int = 100
    ) -> None:
        self.shown = Shown(priced(bids), priced(asks))
        self.fills: list[tuple[Side, int, int]] = []
        self.engine = matching.Matching(self.shown, accept or self._book, orders_max)

    def _book(self, side: Side, price: int, quantity: int) -> str:
        self.fills.append((side, price, quantity))
        return ""

    def do(self, what: str, *given: Any) -> list[matching.Event]:
        match what:
            case "place":
                order_id, side, kind, price, quantity = given
                return self.engine.place(order_id, side, kind, price * accounts.UNIT, quantity)
            case "cancel":
                return self.engine.cancel(*given)
            case "cancel_all":
                return self.engine.cancel_all(*given)
            case "trade":
                price, quantity, buyer_is_maker = given
                return self.engine.traded(price * accounts.UNIT, quantity, buyer_is_maker)
            case "snapshot":
                self.shown.bids, self.shown.asks = priced(given[0]), priced(given[1])
                return self.engine.restated()
            case "diff":
                bids, asks = priced(given[0]), priced(given[1])
                for shown, levels in ((self.shown.bids, bids), (self.shown.asks, asks)):
                    shown.update(levels)
                    for price in [price for price, quantity in levels.items() if not quantity]:
                        del shown[price]
                return self.engine.changed(bids.items(), asks.items())
        raise AssertionError(what)

    def run(self, script: Iterable[tuple[Any, ...]]) -> list[matching.Event]:
        return [event for step in script for event in self.do(*step)]


def working(order_id: str) -> matching.Event:
    return matching.Event(order_id, OrderState.WORKING, 0)


def part(order_id: str, filled: int, price: int, quantity: int) -> matching.Event:
    return matching.Event(order_id, OrderState.PARTIALLY_FILLED, filled, price * accounts.UNIT, quantity)


def full(order_id: str, filled: int, price: int, quantity: int) -> matching.Event:
    return matching.Event(order_id, OrderState.FILLED, filled, price * accounts.UNIT, quantity)


def cancelled(order_id: str, filled: int, reason: str = "") -> matching.Event:
    return matching.Event(order_id, OrderState.CANCELLED, filled, reason=reason)


def rejected(order_id: str, reason: str) -> matching.Event:
    return matching.Event(order_id, OrderState.REJECTED, 0, reason=reason)


BIDS = {100: 5, 99: 7}
ASKS = {101: 3, 102: 4}

SCENARIOS: dict[str, tuple[list[tuple[Any, ...]], list[matching.Event]]] = {
    "an order inside the spread rests": ([("place", "a", BUY, LIMIT, 100, 2)], [working("a")]),
    "an incoming order takes the best level first, then rests": (
        [("place", "a", BUY, LIMIT, 102, 9)],
        [part("a", 3, 101, 3), part("a", 7, 102, 4)],
    ),
    "an incoming sell takes from the highest bid down": (
        [("place", "a", SELL, LIMIT, 99, 6)],
        [part("a", 5, 100, 5), full("a", 6, 99, 1)],
    ),
    "an order that only one level can fill stops at its limit": (
        [("place", "a", BUY, IOC, 101, 9)],
        [part("a", 3, 101, 3), cancelled("a", 3, reasons.IOC_REST)],
    ),
    "an immediate-or-cancel order that finds nothing is cancelled": (
        [("place", "a", BUY, IOC, 100, 1)],
        [cancelled("a", 0, reasons.IOC_REST)],
    ),
    "what was taken stays taken until the tape names the level": (
        [
            ("place", "a", BUY, IOC, 101, 2),
            ("place", "b", BUY, IOC, 101, 2),
            ("diff", {}, {102: 9}),
            ("place", "c", BUY, IOC, 101, 1),
            ("diff", {}, {101: 3}),
            ("place", "d", BUY, IOC, 101, 3),
        ],
        [
            full("a", 2, 101, 2),
            part("b", 1, 101, 1),
            cancelled("b", 1, reasons.IOC_REST),
            cancelled("c", 0, reasons.IOC_REST),
            full("d", 3, 101, 3),
        ],
    ),
    "a snapshot names every level": (
        [("place", "a", BUY, IOC, 101, 3), ("snapshot", BIDS, ASKS), ("place", "b", BUY, IOC, 101, 3)],
        [full("a", 3, 101, 3), full("b", 3, 101, 3)],
    ),
    "a post-only order that would take is rejected": (
        [
            ("place", "a", BUY, POST, 101, 1),
            ("place", "b", SELL, POST, 100, 1),
            ("place", "c", BUY, POST, 100, 1),
        ],
        [rejected("a", reasons.WOULD_TAKE), rejected("b", reasons.WOULD_TAKE), working("c")],
    ),
    "a post-only order may rest where all is taken": (
        [("place", "a", BUY, IOC, 101, 3), ("place", "b", BUY, POST, 101, 1)],
        [full("a", 3, 101, 3), working("b")],
    ),
    "a resting order queues behind the displayed quantity": (
        [
            ("place", "a", BUY, LIMIT, 100, 2),
            ("trade", 100, 5, True),
            ("trade", 100, 1, True),
            ("trade", 100, 9, True),
        ],
        [working("a"), part("a", 1, 100, 1), full("a", 2, 100, 1)],
    ),
    "one trade fills what is left of it after the queue ahead": (
        [("place", "a", BUY, LIMIT, 100, 4), ("trade", 100, 7, True)],
        [working("a"), part("a", 2, 100, 2)],
    ),
    "a trade of the other side leaves an order alone": (
        [("place", "a", BUY, LIMIT, 100, 4), ("trade", 100, 50, False)],
        [working("a")],
    ),
    "a trade fills better-priced own orders first, at their own price": (
        [
            ("place", "a", SELL, LIMIT, 103, 2),
            ("place", "b", SELL, LIMIT, 102, 2),
            ("trade", 103, 3, False),
        ],
        [working("a"), working("b"), full("b", 2, 102, 2), part("a", 1, 103, 1)],
    ),
    "a trade that goes through clears the queue of the better price": (
        [("place", "a", BUY, LIMIT, 100, 4), ("trade", 99, 1, True), ("trade", 100, 3, True)],
        [working("a"), part("a", 1, 100, 1), full("a", 4, 100, 3)],
    ),
    "own orders at one price fill in the order in which they came": (
        [
            ("place", "a", BUY, LIMIT, 100, 2),
            ("diff", {100: 8}, {}),
            ("place", "b", BUY, LIMIT, 100, 2),
            ("trade", 100, 8, True),  # 5 ahead of a, 2 for a, 1 of the 3 between them
            ("trade", 100, 3, True),
        ],
        [working("a"), working("b"), full("a", 2, 100, 2), part("b", 1, 100, 1)],
    ),
    "a diff lowers the queue ahead, and raising the level does not lengthen it": (
        [
            ("place", "a", BUY, LIMIT, 100, 2),
            ("diff", {100: 1}, {}),
            ("diff", {100: 50}, {}),
            ("trade", 100, 2, True),
        ],
        [working("a"), part("a", 1, 100, 1)],
    ),
    "a level that goes leaves nothing ahead": (
        [("place", "a", BUY, LIMIT, 100, 2), ("diff", {100: 0}, {}), ("trade", 100, 2, True)],
        [working("a"), full("a", 2, 100, 2)],
    ),
    "a snapshot lowers the queue ahead": (
        [("place", "a", BUY, LIMIT, 100, 2), ("snapshot", {99: 1}, ASKS), ("trade", 100, 2, True)],
        [working("a"), full("a", 2, 100, 2)],
    ),
    "an opposite best at our price fills us up to its quantity": (
        [
            ("place", "a", BUY, LIMIT, 100, 4),
            ("diff", {100: 0}, {100: 3}),
            ("diff", {}, {105: 1}),
            ("diff", {}, {100: 1}),
        ],
        [working("a"), part("a", 3, 100, 3), full("a", 4, 100, 1)],
    ),
    "an opposite best through our price fills us at our price": (
        [("place", "a", SELL, LIMIT, 102, 4), ("diff", {104: 3, 103: 3}, {101: 0, 102: 0})],
        [working("a"), part("a", 3, 102, 3), full("a", 4, 102, 1)],
    ),
    "a snapshot that crosses us fills us": (
        [("place", "a", SELL, LIMIT, 102, 2), ("snapshot", {103: 9}, {104: 1})],
        [working("a"), full("a", 2, 102, 2)],
    ),
    "own never meets own: the newest is cancelled": (
        [
            ("place", "a", SELL, LIMIT, 101, 2),
            ("diff", {}, {101: 0}),
            ("place", "b", BUY, LIMIT, 101, 2),
            ("place", "c", BUY, POST, 101, 1),
        ],
        [working("a"), cancelled("b", 0, reasons.SELF_MATCH), cancelled("c", 0, reasons.SELF_MATCH)],
    ),
    "an incoming order takes what stands before an own order, not beyond it": (
        [("place", "a", SELL, LIMIT, 101, 2), ("diff", {}, {101: 9}), ("place", "b", BUY, LIMIT, 102, 8)],
        [working("a"), part("b", 3, 101, 3), cancelled("b", 3, reasons.SELF_MATCH)],
    ),
    "a post-only order would take what stands before an own order": (
        [("place", "a", SELL, LIMIT, 101, 2), ("place", "b", BUY, POST, 101, 8)],
        [working("a"), rejected("b", reasons.WOULD_TAKE)],
    ),
    "taking what stands before an own order moves it up": (
        [("place", "a", SELL, LIMIT, 101, 2), ("place", "b", BUY, LIMIT, 101, 3), ("trade", 101, 1, False)],
        [working("a"), full("b", 3, 101, 3), part("a", 1, 101, 1)],
    ),
    "a cancelled order ends, once": (
        [("place", "a", BUY, LIMIT, 100, 2), ("cancel", "a"), ("cancel", "a"), ("trade", 99, 9, True)],
        [working("a"), cancelled("a", 0)],
    ),
    "a cancel after a part of it was filled says how much": (
        [("place", "a", BUY, LIMIT, 102, 8), ("cancel", "a")],
        [part("a", 3, 101, 3), part("a", 7, 102, 4), cancelled("a", 7)],
    ),
    "all are cancelled, oldest first, with the reason": (
        [
            ("place", "a", BUY, LIMIT, 100, 2),
            ("place", "b", SELL, LIMIT, 105, 2),
            ("cancel_all", reasons.TAPE_END),
        ],
        [
            working("a"),
            working("b"),
            cancelled("a", 0, reasons.TAPE_END),
            cancelled("b", 0, reasons.TAPE_END),
        ],
    ),
    "an id that works already is a duplicate": (
        [("place", "a", BUY, LIMIT, 100, 2), ("place", "a", BUY, LIMIT, 99, 2)],
        [working("a"), rejected("a", reasons.DUPLICATE)],
    ),
    "nothing for nothing": (
        [
            ("place", "a", BUY, LIMIT, 0, 2),
            ("place", "b", BUY, LIMIT, 100, 0),
            ("place", "c", SELL, LIMIT, 100, -1),
        ],
        [
            rejected("a", reasons.NOT_POSITIVE),
            rejected("b", reasons.NOT_POSITIVE),
            rejected("c", reasons.NOT_POSITIVE),
        ],
    ),
    "a notional past 64 bits is refused": (
        [("place", "a", BUY, LIMIT, 1 << 40, 1 << 40)],
        [rejected("a", reasons.OVERFLOW)],
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_matching(name: str) -> None:
    script, expected = SCENARIOS[name]
    assert Venue(BIDS, ASKS).run(script) == expected


def test_an_order_whose_notional_is_not_whole_is_rejected_up_front() -> None:
    venue = Venue(BIDS, ASKS)
    assert venue.engine.place("a", BUY, LIMIT, 100 * accounts.UNIT + 1, 1) == [
        rejected("a", reasons.NOT_WHOLE)
    ]


def test_a_fill_that_cannot_be_booked_ends_the_order_and_is_not_filled() -> None:
    """Refused before anything came of it: rejected. Refused later: cancelled, keeping what was booked."""
    kept = accounts.Accounts()
    kept.restore("spot", "BTC", accounts.INT64_MAX - 4, 0)
    venue = Venue(
        {100: 5}, {101: 9}, lambda side, price, quantity: kept.book("spot", "BTC", side, price, quantity)
    )
    assert venue.run([("place", "a", BUY, LIMIT, 101, 5)]) == [rejected("a", reasons.OVERFLOW)]
    assert venue.run(
        [("place", "b", BUY, LIMIT, 100, 9), ("trade", 100, 8, True), ("trade", 100, 2, True)]
    ) == [
        working("b"),
        part("b", 3, 100, 3),
        cancelled("b", 3, reasons.OVERFLOW),
    ]
    assert kept.of("spot", "BTC").quantity == accounts.INT64_MAX - 1 and not venue.engine.orders


def test_working_orders_are_bounded() -> None:
    venue = Venue(BIDS, ASKS, orders_max=1)
    script = [
        ("place", "a", BUY, LIMIT, 99, 1),
        ("place", "b", BUY, LIMIT, 99, 1),
        ("cancel", "a"),
        ("place", "c", BUY, LIMIT, 99, 1),
    ]
    assert venue.run(script) == [
        working("a"),
        rejected("b", reasons.TOO_MANY_ORDERS),
        cancelled("a", 0),
        working("c"),
    ]


prices, amounts = st.integers(98, 103), st.integers(1, 6)
levels = st.dictionaries(prices, st.integers(0, 6), max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("place"),
            st.integers(0, 999).map(str),
            st.sampled_from(list(Side)),
            st.sampled_from(list(Kind)),
            prices,
            amounts,
        ),
        st.tuples(st.just("cancel"), st.integers(0, 999).map(str)),
        st.tuples(st.just("diff"), levels, levels),
        st.tuples(st.just("trade"), prices, amounts, st.booleans()),
    ),
    max_size=40,
)


def numbered(script: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Orders numbered as they come, and cancels aimed at those before them."""
    placed, made = 0, []
    for step in script:
        if step[0] == "place":
            placed += 1
            made.append(("place", str(placed), *step[2:]))
        elif step[0] == "cancel":
            made.append(("cancel", str(int(step[1]) % max(placed, 1) + 1)))
        else:
            made.append(step)
    return made


@given(steps)
def test_whatever_happens_the_books_balance(script: list[tuple[Any, ...]]) -> None:
    """Fills sum to `filled` and what was booked, never more than ordered; nothing follows the end; moves are
    legal; a trade fills at most itself.
    """
    venue = Venue({99: 3, 98: 2}, {101: 3, 102: 2})
    orders: dict[str, order.Order] = {}
    filled = {BUY: 0, SELL: 0}
    for step in numbered(script):
        if step[0] == "place":
            _, order_id, side, kind, price, quantity = step
            orders[order_id] = order.Order(
                order_id, order_id, "s", "spot", "BTC", side, kind, price * accounts.UNIT, quantity
            )
        events = venue.do(*step)
        assert step[0] != "trade" or sum(event.quantity for event in events) <= step[2]
        for event in events:
            known = orders[event.order_id]
            assert known.open and event.filled == known.filled + event.quantity <= known.quantity
            assert not event.quantity or (
                event.price <= known.price if known.side is BUY else event.price >= known.price
            )
            known.reported(event.state, event.filled)
            filled[known.side] += event.quantity
        assert set(venue.engine.orders) == {order_id for order_id, known in orders.items() if known.open}
    assert filled == {side: sum(quantity for of, _, quantity in venue.fills if of is side) for side in Side}


@given(steps)
def test_own_orders_never_cross_and_keep_their_turn(script: list[tuple[Any, ...]]) -> None:
    """Best own bid below best own ask at all times, and of two orders at one price the earlier has no more
    ahead and is filled first.
    """
    venue = Venue({99: 3, 98: 2}, {101: 3, 102: 2})
    for step in numbered(script):
        queues: dict[tuple[Side, int], list[str]] = {}
        for order_id, kept in venue.engine.orders.items():
            queues.setdefault((kept.side, kept.price), []).append(order_id)
        events = venue.do(*step)
        resting = venue.engine.orders
        if step[0] in ("trade", "diff"):
            for queue in queues.values():
                touched = [event.order_id for event in events if event.order_id in queue]
                assert list(dict.fromkeys(touched)) == queue[: len(set(touched))]
                assert not any(order_id in resting for order_id in touched[:-1] if order_id != touched[-1])
        bids = [kept.price for kept in resting.values() if kept.side is BUY]
        asks = [kept.price for kept in resting.values() if kept.side is SELL]
        assert not bids or not asks or max(bids) < min(asks)
        for queue in queues.values():
            ahead = [resting[order_id].ahead for order_id in queue if order_id in resting]
            assert ahead == sorted(ahead) and min(ahead, default=0) >= 0


@given(steps)
def test_the_same_list_gives_the_same_events(script: list[tuple[Any, ...]]) -> None:
    assert Venue(BIDS, ASKS).run(numbered(script)) == Venue(BIDS, ASKS).run(numbered(script))


def test_a_resting_order_is_filled_by_what_can_be_booked_and_never_cancelled_for_the_rest() -> None:
    """A tick of 0.001 and a lot of 0.000001: price x lot is below 1e-8 of the quote currency."""
    kept = accounts.Accounts()
    price, quantity = 1_234_500_000, 200_000  # 12.345 and 0.002: whole; so are multiples of 0.000002 only
    engine = matching.Matching(Shown(), lambda side, at, amount: kept.book("spot", "X", side, at, amount))
    events = engine.place("a", BUY, LIMIT, price, quantity)
    for traded in (300, 100, 50_100, 100, 10**9):
        events += engine.traded(price, traded, True)
    assert [event.quantity for event in events] == [0, 200, 50_000, 149_800]
    assert events[-1].state is OrderState.FILLED
    assert kept.of("spot", "X").cash == -(price * quantity // accounts.UNIT)
