"""riskd: stands between every strategy and the order manager; without its signature no order leaves.

Wiring only. What may leave, and the signature: engine/orders/risk.py. Whose link is whose:
engine/orders/clients.py, strategies.py and order_manager.py. riskd is a group of its own: it approves only
while its lease page says that it leads, and signs with its token. It has no group to fence, so it is active
as soon as it leads. When a new omsd attaches, it has cancelled all working orders at the venue, and the
strategies are told at once. Cancels always pass. A strategy that dies or falls silent has its working orders
cancelled.
"""

from __future__ import annotations

import time

from controlplane.model import Phase
from hftd import bus, runtime
from hftd.daemons import fence_keeping
from hftd.daemons.riskd import order_manager, strategies
from hftd.engine import fixed, reasons
from hftd.engine.orders import answers, approvals, clients, risk
from hftd.settings import RiskSettings
from hftd.shm import pages
from hftd.wire import codec, control, market, orders, tops
from hftd.wire.orders import OrderState

WATCH_EVERY_S = 1.0


def limits(settings: RiskSettings, revision: int) -> risk.Limits:
    return risk.Limits(
        revision=revision,
        position_max=fixed.parse(settings.max_position),
        order_size_max=fixed.parse(settings.max_order_size),
        price_collar_ppm=settings.price_collar_ppm,
        price_age_max_ns=int(settings.price_age_max_s * 1e9),
        messages_per_s=settings.messages_per_s,
        message_burst=settings.message_burst,
        open_orders_max=settings.open_orders_max,
    )


class Gate:
    def __init__(self, context: runtime.Context, settings: RiskSettings) -> None:
        self.context = context
        macs = approvals.Macs(context.key(approvals.PURPOSE))
        self.risk = risk.Risk(limits(settings, context.in_force.revision), macs)
        self.strategies = strategies.Strategies(context, int(settings.strategy_silent_s * 1e9))
        self.omsd = order_manager.OrderManager(context, self._head, self._omsd_attached)
        self.market = bus.publish.Subscriber()
        self.positions = bus.publish.Subscriber()
        self.reader = tops.Reader(context.count)
        self._approvals = 0

    def configure(self, settings: RiskSettings) -> None:
        """Intents that wait unread are judged by the new limits; what was approved went to omsd at once."""
        self.risk.configure(limits(settings, self.context.in_force.revision), time.monotonic_ns())
        self.strategies.clients.silent_ns = int(settings.strategy_silent_s * 1e9)

    def _head(self) -> codec.Head:
        token = self.context.lease.token()
        return self.context.head(codec.TokenOnWire.of(token) if token else None)

    # --- leadership -----------------------------------------------------------------------------------------

    def on_lease(self, lease: pages.LeaseWord) -> None:
        """Nobody to fence: leading is being active. A standby is ready too, or it could not be elected."""
        leads = lease.wanted is pages.Wanted.LEAD
        self.context.lease.phase(Phase.ACTIVE if leads else Phase.STANDBY, lease.epoch if leads else 0)
        self.context.set_ready(True, "")

    def _active(self) -> bool:
        return self.context.lease.current_phase is Phase.ACTIVE and self.context.lease.leads()

    # --- strategies -----------------------------------------------------------------------------------------

    def on_intent(self, link: bytes, frame: bytes) -> None:
        message = strategies.decode(frame)
        now_ns = time.monotonic_ns()
        match message:
            case orders.Place():
                self._on_place(link, message, now_ns)
                self.context.tick_passed(message.origin_ns)
            case orders.Cancel():
                self._on_cancel(link, message, now_ns)
            case orders.Attach():
                self._on_hello(link, message, now_ns)
            case orders.Rehearsal():
                self._rehearse(link, message.place, now_ns)

    def _on_hello(self, link: bytes, hello: orders.Attach, now_ns: int) -> None:
        if not hello.service:
            self.context.count("unexpected")
            objection = "the Attach does not name the strategy's service"
        else:
            before = self.strategies.clients.hello(hello.service, hello.claimant.instance, link, now_ns)
            if before is not None:
                self._cancel_all_of(before, "another process speaks for it now")
            objection = "" if self._active() else reasons.text(reasons.NOT_ACTIVE)
        self.strategies.answer(link, orders.Attached(*self._head(), not objection, objection, last_seq=0))

    def _on_place(self, link: bytes, place: orders.Place, now_ns: int) -> None:
        refused = self._judge(place, now_ns)
        if refused is None:
            self.context.count("approved")
            return
        self.context.count("refused")
        self.context.count(f'refused_by{{reason="{refused.code}"}}')
        self.strategies.answer(
            link, answers.ended(self._head(), place, OrderState.REFUSED, refused.code, text=refused.text)
        )
        if place.replaces:
            self._on_cancel(link, orders.cancel_of(place), now_ns)

    def _judge(self, place: orders.Place, now_ns: int) -> risk.Refused | None:
        if not self._active():
            return risk.refuse(reasons.NOT_ACTIVE)
        if not self.omsd.attached:
            return risk.refuse(reasons.NO_OMSD)
        refused = self.risk.approve(place, self.omsd.route, now_ns)
        if refused is not None:
            return refused
        head = self._head()
        self._approvals += 1
        if not self.omsd.send(self.risk.signed(head, place, self._approvals)):
            self.risk.withdraw(place.client_order_id)
            return risk.refuse(reasons.NO_OMSD)
        return None

    def _rehearse(self, link: bytes, place: orders.Place, now_ns: int) -> None:
        """Everything that an order costs here, and none of what it does; its approval 0 approves nothing."""
        if not self._active():
            return
        self.risk.judge(place, now_ns)
        self.context.count("rehearsals")
        head = self._head()
        if not self.omsd.send(orders.Rehearsal(*head, self.risk.signed(head, place, approval=0))):
            self.strategies.answer(link, answers.refusal(head, place, reasons.NO_OMSD))

    def _on_cancel(self, link: bytes, cancel: orders.Cancel, now_ns: int) -> None:
        # Our id of the order and the gateway's token are for omsd and execd to say.
        sent = self.omsd.send(codec.replace(codec.under(cancel, self._head()), order_id="", gateway=None))
        self.risk.on_cancel(cancel.strategy, now_ns)
        if not sent:
            self.strategies.answer(link, answers.refusal(self._head(), cancel, reasons.NO_OMSD))

    def _cancel_all_of(self, client: clients.Client, why: str) -> None:
        gone = [order for order in self.risk if order.strategy == client.service]
        for order in gone:
            self.omsd.send(
                orders.Cancel(
                    *self._head(),
                    client_order_id=order.client_order_id,
                    strategy=order.strategy,
                    market=order.market,
                    symbol=order.symbol,
                    origin_ns=0,
                )
            )
        self.context.event("strategy.lost", instance=client.instance, why=why, cancels=len(gone))

    def watch(self, now_ns: int) -> None:
        """Each second: a strategy that has been silent for too long is gone."""
        for client in self.strategies.clients.forget_silent(now_ns):
            silent_ms = (now_ns - client.heard_ns) // 1_000_000
            self._cancel_all_of(client, f"silent for {silent_ms} ms")
        self.context.gauge("open_orders", len(self.risk.orders))

    # --- the order manager ----------------------------------------------------------------------------------

    def on_order(self, link: bytes, frame: bytes) -> None:
        """What omsd sends: Attach first, then reports. From any other than the attached omsd a message is
        refused and counted.
        """
        message = order_manager.decode(frame)
        match message:
            case orders.Attach():
                self.omsd.attach(link, message)
            case orders.Report() if self.omsd.speaks(link, message):
                self.risk.on_report(message, self.omsd.route)
                self.strategies.pass_on(message.strategy, frame)
            case orders.Refusal() if self.omsd.speaks(link, message):
                self._on_refusal(message, frame)

    def _omsd_attached(self) -> None:
        """The orders of the omsd before: tell their strategies now, so that they quote again; the reports
        that still come are old news to them.
        """
        for order in self.risk.abandon(self.omsd.route):
            self._end(order, OrderState.CANCELLED, reasons.TAKE_OVER, reasons.text(reasons.TAKE_OVER))

    def _on_refusal(self, refusal: orders.Refusal, frame: bytes) -> None:
        """omsd did not take it: the order itself when nothing was heard of it since, else its cancel."""
        order = self.risk.withdraw(refusal.client_order_id)
        if order is not None:
            self._end(order, OrderState.REFUSED, refusal.reason, refusal.text)
            return
        if refusal.reason in reasons.ENDED:
            self.risk.forget(refusal.client_order_id)
        self.strategies.pass_on(refusal.strategy, frame)

    def _end(self, order: risk.OpenOrder, state: OrderState, reason: str, text: str) -> None:
        ended = answers.ended(self._head(), order, state, reason, text=text, filled=order.filled)
        self.strategies.tell(order.strategy, ended)

    # --- what it is asked -----------------------------------------------------------------------------------

    def exposures(self, _: dict[str, object]) -> list[dict[str, str]]:
        names = ("market", "symbol", "position", "working_buy", "working_sell")
        return [
            dict(zip(names, (row[0], row[1], *map(fixed.text, row[2:])), strict=True))
            for row in self.risk.exposures()
        ]

    # --- prices and positions -------------------------------------------------------------------------------

    def on_market(self, frame: bytes) -> None:
        now_ns = time.monotonic_ns()
        for instrument, message, _ in self.reader.read(frame):
            if message.kind == market.Kind.TOP and message.bids and message.asks:
                (bid, bids), (ask, asks) = message.bids[0], message.asks[0]
                if not (bids > 0 and asks > 0):
                    bid = ask = 0
                self.risk.on_top(instrument.market, instrument.symbol, bid, ask, message.last, now_ns)
            elif message.kind == market.Kind.STATUS and not message.flags & market.IN_STEP:
                self.risk.on_top(instrument.market, instrument.symbol, 0, 0, 0, now_ns)

    def on_position(self, frame: bytes) -> None:
        message = orders.decode_position(frame)
        self.risk.on_position(
            message.market,
            message.symbol,
            message.quantity,
            message.last_execution,
            doubtful=message.doubtful,
        )


def build(context: runtime.Context, settings: RiskSettings) -> runtime.Loop:
    gate = Gate(context, settings)
    loop = runtime.Loop(context)
    tops, positions = settings.tops, settings.positions

    def found_marks(_: list[control.Peer]) -> None:
        gate.market.connect(context.endpoint(tops, "marks"))

    def found_positions(_: list[control.Peer]) -> None:
        gate.positions.connect(context.endpoint(positions, "positions"))

    loop.on_peers(tops, found_marks)
    loop.on_peers(positions, found_positions)
    loop.on_settings(gate.configure)
    loop.on_lease(gate.on_lease)
    loop.on_ask("risk", gate.exposures)
    fence_keeping.keep(loop, context, gate.omsd.fences, gate.omsd.claims)
    # Positions and prices before intents: an order is judged by the newest of what has arrived.
    loop.on(gate.positions.socket, gate.on_position)
    loop.on(gate.market.socket, gate.on_market)
    loop.on_router(gate.omsd.router.socket, gate.on_order)
    loop.on_router(gate.strategies.router.socket, gate.on_intent)
    loop.every(WATCH_EVERY_S, gate.watch)
    return loop
