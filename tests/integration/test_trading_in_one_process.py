"""From tape to fills without a socket: the recorded day through venue, strategy, risk and positions, as fast
as it goes.

The same engines that the daemons wire together; what is proved here is what they decide, not how it travels.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from pathlib import Path

import pytest

from hftd.daemons import riskd
from hftd.engine import accounts, position
from hftd.engine.orders import approvals, risk
from hftd.settings import RiskSettings, StrategySettings
from hftd.strategies import base, market_making
from hftd.venues import replay, sim
from hftd.wire import orders
from hftd.wire.orders import OrderState, Side

SPAN_NS = 60_000_000_000
LATENCY_NS = 1_000_000
"""Between a decision and the venue; on the shared tape's scale, what the hops of a floor take."""


class Trading:
    def __init__(self, tape: replay.Tape) -> None:
        self.now_ns = 0
        self.accounts, self.positions = accounts.Accounts(), position.Positions()
        self.venue = sim.Venue(tape.instruments, self.accounts, 0, "simd-alpha-1", lambda: self.now_ns)
        self.risk = risk.Risk(riskd.limits(RiskSettings(), 1), approvals.Macs(bytes(32)))
        self.maker = market_making.MarketMaking(dataclasses.asdict(StrategySettings()))
        self.waiting: deque[tuple[int, base.Intent]] = deque()
        self.sides: Counter[Side] = Counter()
        self.counts: Counter[str] = Counter()
        self.instruments = {each.id: each for each in tape.instruments}
        self._best: dict[int, tuple[int, int, int, int]] = {}
        self._timer_ns = 0
        for each in tape.instruments:
            self.maker.on_position(base.Instrument(each.market, each.symbol), 0, 0, 0)
            self.risk.on_position(each.market, each.symbol, 0, 0)

    def line(self, line: replay.Line) -> None:
        self.now_ns = line.receive_ns
        while self.waiting and self.waiting[0][0] <= self.now_ns:
            self.carry_out(self.waiting.popleft()[1])
        self.venue.line(line.instrument, line.receive_ns, line.raw)
        self.report()
        best = self.venue._instruments[line.instrument].book.best()
        of = self.instruments[line.instrument]
        if of.contract != "inverse" and best != self._best.get(line.instrument) and best[0] and best[2]:
            self._best[line.instrument] = best
            key = base.Instrument(of.market, of.symbol)
            self.risk.on_top(of.market, of.symbol, best[0], best[2], self.now_ns, self.now_ns)
            self.decided(
                self.maker.on_quote(
                    base.Quote(key, base.Level(*best[:2]), base.Level(*best[2:]), 1, 1), self.now_ns
                )
            )
        if self.now_ns >= self._timer_ns:
            self._timer_ns = self.now_ns + 100_000_000
            self.decided(self.maker.on_timer(self.now_ns))

    def decided(self, intents: list[base.Intent]) -> None:
        self.waiting.extend((self.now_ns + LATENCY_NS, intent) for intent in intents)

    def carry_out(self, intent: base.Intent) -> None:
        order_id = f"omsd-1-{intent.order}"
        if isinstance(intent, base.Cancel):
            self.risk.on_cancel("strategy-mm", self.now_ns)
            self.counts["cancels"] += 1
            self.venue.cancel(order_id)
        else:
            if intent.replaces:
                self.counts["cancels"] += 1
                self.venue.cancel(f"omsd-1-{intent.replaces}")
            place = orders.Place(
                1, 0, 0, "", None, f"strategy-mm-1-{intent.order}", "strategy-mm", *intent.instrument,
                intent.side, intent.kind, intent.price,
                intent.quantity, 0, 0, order_id=order_id,
            )  # fmt: skip
            refused = self.risk.approve(place, 1, self.now_ns)
            assert refused is None, refused
            self.sides[intent.side] += 1
            self.counts["by a tick"] += intent.origin_ns > 0
            self.venue.place(place)
        self.report()

    def report(self) -> None:
        while self.venue.told:
            report = self.venue.told.popleft().record
            if not isinstance(report, orders.Report):
                continue
            self.risk.on_report(report, 1)
            key, number = (
                base.Instrument(report.market, report.symbol),
                int(report.client_order_id.rpartition("-")[2]),
            )
            if report.execution_id:
                self.counts["fills"] += 1
                execution = position.Execution(
                    report.execution_id, *key, report.side, report.last_price, report.last_quantity
                )
                assert self.positions.apply(execution) == ""
                self.decided(
                    self.maker.on_fill(
                        base.Fill(
                            number,
                            key,
                            report.side,
                            report.last_price,
                            report.last_quantity,
                            report.execution_id,
                        ),
                        0,
                    )
                )
                self.maker.on_position(
                    key, self.positions.of(*key).quantity, report.execution_id, self.now_ns
                )
            self.counts["rejects"] += report.state is OrderState.REJECTED
            update = base.OrderUpdate(
                number, report.client_order_id, key, report.side, report.state, report.filled, report.reason
            )
            self.decided(self.maker.on_order(update, self.now_ns))


@pytest.mark.recorded
def test_a_minute_of_the_tape_is_traded_on_both_sides_and_the_sums_equal_the_venues(recorded: Path) -> None:
    tape = replay.Tape([recorded])
    trading, begin_ns = Trading(tape), 0
    for line in tape:
        assert isinstance(line, replay.Line)
        begin_ns = begin_ns or line.receive_ns
        if line.receive_ns - begin_ns > SPAN_NS:
            break
        trading.line(line)
    placed = sum(trading.sides.values())
    assert placed >= 50 and min(trading.sides.values()) >= 10 and trading.counts["fills"] >= 10
    assert trading.counts["by a tick"] > placed // 4, (
        "most quotes follow a tick, and their latency is measured"
    )
    assert placed + trading.counts["cancels"] <= 4 * 2 * 4 * 60, (
        "two orders and two cancels a second and side at most"
    )
    assert trading.counts["rejects"] < placed // 5, "post-only orders that would have taken"
    venue = {(market, symbol): (kept.quantity, kept.cash) for market, symbol, kept in trading.accounts}
    ours = {(held.market, held.symbol): (held.quantity, held.cash) for held in trading.positions}
    assert ours == venue and len(ours) == 4
    working = {(market, symbol): (buys, sells) for market, symbol, _, buys, sells in trading.risk.exposures()}
    for key, sums in working.items():
        at_venue = [order for order in trading.venue.open_orders() if (order.market, order.symbol) == key]
        assert sums == tuple(
            sum(order.quantity - order.filled for order in at_venue if order.side is side) for side in Side
        )
