"""strategyd: lets one strategy see the market and carries out what it wants, through riskd.

Wiring and names only. What it decides: hftd/strategies. What its orders go through: daemons/riskd/. The
strategy numbers its orders; here a number becomes `<service>-<session>-<n>`, where the session is the start
in UNIX ms, never one that was used before. Of the tops that pile up while others are read only the newest of
each instrument is shown to the strategy, the rest counted as conflated. Nothing is quoted before riskd has
answered.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd import bus, runtime, strategies
from hftd.engine import reasons
from hftd.engine.orders.awaited import Awaited
from hftd.settings import StrategySettings
from hftd.strategies import base
from hftd.wire import codec, control, market, orders, requests, tops

HELLO_EVERY_S = 1.0
RISK_SILENT_S = 3.0
"""Three hellos without an answer: riskd is gone and nothing new is asked of it."""
REHEARSAL = 0
"""Its number; the strategy's own orders have numbers from 1."""
NUMBER_DIGITS_MAX = 18
"""Of an own order's number; more digits were not given out here."""
REHEARSE_WITHIN_S = 1.5
"""Of riskd's last answer: one hello may be late."""
REHEARSE_AFTER_S = 0.1
"""A rehearsal was refused: somebody takes over, and needs the CPU more than a path that leads nowhere."""
TIMER_S = 0.1
"""Time-outs and stale quotes are looked at this often; ticks and reports are acted on at once."""
EXECUTIONS_KEPT = 10_000
"""Ids of executions that were counted: after a fail-over the same one may be reported again."""


def new_session(path: Path, now_ms: int) -> int:
    """A number that this service has never used: the time, or one more than the last when the clock went
    back. Kept before it is used.
    """
    try:
        last = int(path.read_text())
    except FileNotFoundError:
        last = 0
    except ValueError as exc:
        raise InvalidInput(f"{path}: not the last session's number, found {path.read_text()[:40]!r}") from exc
    session = max(now_ms, last + 1)
    files.replace(path, str(session).encode(), Durability.POWER)
    return session


class Strategist:
    """The strategy's hands and eyes."""

    def __init__(self, context: runtime.Context, settings: StrategySettings) -> None:
        self.context, self.settings = context, settings
        self.strategy = strategies.BY_NAME[settings.strategy](dataclasses.asdict(settings))
        self.prefix = (
            f"{context.service}-{new_session(context.data_dir / 'session', time.time_ns() // 1_000_000)}-"
        )
        self.reader = tops.Reader(context.count)
        self.market = bus.publish.Subscriber()
        self.intents = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.positions = bus.publish.Subscriber()
        self._fresh: dict[base.Instrument, base.Quote] = {}
        self._seen: base.Quote | None = None
        """The newest of all instruments."""
        self._rehearse_ns = 0
        """Not before."""
        self._answered_ns: int | None = None
        """When riskd last said that it takes our orders; None: it does not."""
        self._heard_ns = 0
        """When riskd last said anything."""
        guarded = context.breakers.add(f"{context.service}.{settings.risk}", settings.breaker.breaker())
        self.awaited = Awaited(guarded, settings.breaker)
        self._executions: dict[int, None] = {}
        self.rehearsals: runtime.Timer | None = None
        context.set_ready(False, f"{settings.risk} has not answered")

    def configure(self, settings: StrategySettings) -> None:
        """Orders that work are moved when the strategy next looks at them: at the next quote, or tick of its
        timer. Those in a market that is traded no more are taken out now.
        """
        self.strategy.configure(dataclasses.asdict(settings))  # the one that may refuse comes first
        gone = set(self.settings.markets) - set(settings.markets)
        self.settings = settings
        self.awaited.configure(settings.breaker)
        if self.rehearsals is not None:
            self.rehearsals.set(settings.rehearsal_interval_s)
        for instrument in self.reader.instruments.values():
            if instrument.market in gone:
                key = base.Instrument(instrument.market, instrument.symbol)
                self._fresh.pop(key, None)
                self.carry_out(self.strategy.on_book(key, False, time.monotonic_ns()))
        if self._seen is not None and self._seen.instrument.market in gone:
            self._seen = None

    # --- towards riskd --------------------------------------------------------------------------------------

    def hello(self, now_ns: int) -> None:
        who = codec.ProcessOnWire.of(self.context.process)
        self.intents.send(codec.encode(orders.Attach(*self.context.head(), who, self.context.service)))
        if self._answered_ns is not None and now_ns - self._answered_ns > RISK_SILENT_S * 1e9:
            self._answered_ns = None
            self.context.set_ready(False, f"{self.settings.risk} does not answer")

    def carry_out(self, intents: Iterable[base.Intent]) -> None:
        """Send in order; what could not be sent is told to the strategy, whose answer is carried out too (it
        waits its interval, so this ends).
        """
        for intent in intents:
            instrument = intent.instrument
            self.context.count("signals")
            if isinstance(intent, base.Cancel):
                client_order_id = intent.client_order_id or f"{self.prefix}{intent.order}"
                self._cancel(client_order_id, instrument, intent.origin_ns)
                continue
            reason = self._place(intent)
            self.context.count("unsent" if reason else "orders")
            if not reason:
                if intent.replaces:
                    self.context.count("cancels")
                continue
            if intent.replaces and reason == reasons.BREAKER_OPEN:
                # What a refused order replaces is cancelled all the same, as at every later hop.
                self._cancel(f"{self.prefix}{intent.replaces}", instrument, intent.origin_ns)
            refused = base.OrderUpdate(
                intent.order,
                f"{self.prefix}{intent.order}",
                instrument,
                intent.side,
                orders.OrderState.REFUSED,
                0,
                reason,
            )
            self.carry_out(self.strategy.on_order(refused, time.monotonic_ns()))

    def _cancel(self, client_order_id: str, instrument: base.Instrument, origin_ns: int) -> None:
        cancel = orders.Cancel(
            *self.context.head(),
            client_order_id=client_order_id,
            strategy=self.context.service,
            market=instrument.market,
            symbol=instrument.symbol,
            origin_ns=origin_ns,
        )
        sent = self.intents.send(codec.encode(cancel))
        self.context.count("cancels" if sent else "unsent")

    def _place(self, intent: base.Place) -> str:
        """Send it past riskd's breaker; returns why it has not left, or ""."""
        if self._answered_ns is None:
            return reasons.NOT_CONNECTED
        now_ns = time.monotonic_ns()
        permit = self.awaited.permit(now_ns)
        if permit is None:
            return reasons.BREAKER_OPEN
        if not self.intents.send(codec.encode(self._named(intent))):
            self.awaited.unsent(permit, now_ns)
            return reasons.NOT_CONNECTED
        self.awaited.sent(intent.order, permit, now_ns)
        self.context.tick_passed(intent.origin_ns)
        return ""

    def _named(self, intent: base.Place) -> orders.Place:
        return orders.Place(
            *self.context.head(),
            client_order_id=f"{self.prefix}{intent.order}",
            strategy=self.context.service,
            market=intent.instrument.market,
            symbol=intent.instrument.symbol,
            side=intent.side,
            kind=intent.kind,
            price=intent.price,
            quantity=intent.quantity,
            origin_ns=intent.origin_ns,
            origin_seq=intent.origin_seq,
            replaces=f"{self.prefix}{intent.replaces}" if intent.replaces else "",
        )

    def rehearse(self, now_ns: int) -> None:
        """An order at the best bid that nobody takes, so that the next real one finds the path warm. None to
        a riskd that is late with its answer: it would find them all when it wakes.
        """
        if (
            self._seen is None
            or self._answered_ns is None
            or now_ns - self._answered_ns > REHEARSE_WITHIN_S * 1e9
            or now_ns < self._rehearse_ns
        ):
            return
        quote = self._seen
        place = base.Place(
            REHEARSAL,
            quote.instrument,
            orders.Side.BUY,
            orders.Kind.POST_ONLY,
            *quote.bid,
            origin_ns=0,
            origin_seq=quote.origin_seq,
        )
        if self.intents.send(codec.encode(orders.Rehearsal(*self.context.head(), self._named(place)))):
            self.context.count("rehearsals")

    # --- from the context -----------------------------------------------------------------------------------

    def _trades(self, instrument: requests.Instrument) -> bool:
        return instrument.market in self.settings.markets and not instrument.untradable

    def on_market(self, frame: bytes) -> None:
        for instrument, message, sequence in self.reader.read(frame):
            if not self._trades(instrument):
                continue
            key = base.Instrument(instrument.market, instrument.symbol)
            match message.kind:
                case market.Kind.TOP if message.bids and message.asks:
                    if key in self._fresh:
                        self.context.count("conflated")
                    bid, ask = base.Level(*message.bids[0]), base.Level(*message.asks[0])
                    self._fresh[key] = self._seen = base.Quote(key, bid, ask, message.origin_ns, sequence)
                case market.Kind.STATUS:
                    in_step = bool(message.flags & market.IN_STEP)
                    if not in_step:
                        self._fresh.pop(key, None)
                    self.carry_out(self.strategy.on_book(key, in_step, time.monotonic_ns()))
                case market.Kind.TRADE if message.bids or message.asks:
                    price, quantity = (message.bids or message.asks)[0]
                    taker = orders.Side.SELL if message.flags & market.BUYER_IS_MAKER else orders.Side.BUY
                    self.carry_out(
                        self.strategy.on_trade(base.Trade(key, price, quantity, taker), time.monotonic_ns())
                    )
        if not runtime.waits(self.market.socket):
            self.decide()

    def decide(self) -> None:
        """Show the strategy the newest of what came."""
        if not self._fresh:
            return
        if self._answered_ns is None:
            # Kept for when riskd is there; by then no order can be called the answer to that frame.
            self._fresh = {key: quote._replace(origin_ns=0) for key, quote in self._fresh.items()}
            return
        fresh, self._fresh = self._fresh, {}
        for quote in fresh.values():
            self.carry_out(self.strategy.on_quote(quote, time.monotonic_ns()))

    def on_position(self, frame: bytes) -> None:
        message = orders.decode_position(frame)
        key = base.Instrument(message.market, message.symbol)
        self.carry_out(
            self.strategy.on_position(key, message.quantity, message.last_execution, time.monotonic_ns())
        )

    def on_answer(self, frame: bytes) -> None:
        message = orders.decode_coming_back(frame)
        self._heard_ns = time.monotonic_ns()
        match message:
            case orders.Report():
                self.awaited.answered(self._number(message.client_order_id), self._heard_ns)
                self._on_report(message)
            case orders.Refusal():
                self.awaited.answered(self._number(message.client_order_id), self._heard_ns)
                self._on_refusal(message)
            case orders.Attached():
                self._answered_ns = time.monotonic_ns() if message.ok else None
                self.context.set_ready(message.ok, message.reason)
            case _:
                self.context.count("unexpected")

    def _on_refusal(self, refusal: orders.Refusal) -> None:
        """Of a rehearsal, or of a cancel: its order is as it was and is asked about again by the strategy's
        own timer, unless there is none.
        """
        if refusal.client_order_id == f"{self.prefix}{REHEARSAL}":
            self._rehearse_ns = time.monotonic_ns() + int(REHEARSE_AFTER_S * 1e9)
            return
        self.context.count("refusals")
        number = self._number(refusal.client_order_id)
        if number and refusal.reason in reasons.ENDED:
            nowhere, side = (
                base.Instrument("", ""),
                orders.Side.BUY,
            )  # a refusal names neither; the strategy knows its order
            ended = base.OrderUpdate(
                number, refusal.client_order_id, nowhere, side, orders.OrderState.CANCELLED, 0, refusal.reason
            )
            self.carry_out(self.strategy.on_order(ended, time.monotonic_ns()))

    def _number(self, client_order_id: str) -> int:
        """0 for an order of an earlier session."""
        number = client_order_id.removeprefix(self.prefix)
        ours = number != client_order_id and number.isdecimal() and len(number) <= NUMBER_DIGITS_MAX
        return int(number) if ours else 0

    def _on_report(self, report: orders.Report) -> None:
        now_ns, key, number = (
            time.monotonic_ns(),
            base.Instrument(report.market, report.symbol),
            self._number(report.client_order_id),
        )
        if report.execution_id and report.execution_id not in self._executions:
            self._executions[report.execution_id] = None
            if len(self._executions) > EXECUTIONS_KEPT:
                del self._executions[next(iter(self._executions))]
            self.context.count("fills")
            fill = base.Fill(
                number, key, report.side, report.last_price, report.last_quantity, report.execution_id
            )
            self.carry_out(self.strategy.on_fill(fill, now_ns))
        if report.state in (orders.OrderState.REJECTED, orders.OrderState.REFUSED):
            self.context.count("rejects")
            known = report.reason if report.reason in reasons.TEXTS else "other"
            self.context.count(f'rejects_by{{reason="{known}"}}')
        update = base.OrderUpdate(
            number, report.client_order_id, key, report.side, report.state, report.filled, report.reason
        )
        self.carry_out(self.strategy.on_order(update, now_ns))

    def found_risk(self, endpoint: str | None) -> None:
        if endpoint != self.intents.endpoint:
            self.awaited.another_process(time.monotonic_ns())
        self.intents.connect(endpoint)

    def on_timer(self, now_ns: int) -> None:
        self.awaited.tick(now_ns, self._heard_ns)
        self.carry_out(self.strategy.on_timer(now_ns))


def build(context: runtime.Context, settings: StrategySettings) -> runtime.Loop:
    hands = Strategist(context, settings)
    loop = runtime.Loop(context)

    risk, bookd, positiond = settings.risk, settings.tops, settings.positions

    def found_risk(_: list[control.Peer]) -> None:
        hands.found_risk(context.endpoint(risk, "intents"))

    def found_tops(_: list[control.Peer]) -> None:
        hands.market.connect(context.endpoint(bookd, "tops"))

    def found_positions(_: list[control.Peer]) -> None:
        hands.positions.connect(context.endpoint(positiond, "positions"))

    loop.on_peers(risk, found_risk)
    loop.on_peers(bookd, found_tops)
    loop.on_peers(positiond, found_positions)
    loop.on(hands.intents.socket, hands.on_answer)
    loop.on(hands.positions.socket, hands.on_position)
    loop.on(hands.market.socket, hands.on_market)
    loop.before_wait(hands.decide)
    loop.every(HELLO_EVERY_S, hands.hello)
    loop.every(TIMER_S, hands.on_timer)
    hands.rehearsals = loop.every(settings.rehearsal_interval_s, hands.rehearse)
    loop.on_settings(hands.configure)
    return loop
