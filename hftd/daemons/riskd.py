"""riskd: stands between every strategy and the order manager; without its signature no order leaves.

Wiring only. What may leave: engine/risk.py. riskd is a group of its own (one member): it approves only while
its lease word says so, and signs with its token. It has nobody to fence, so it is active as soon as it leads.
Orders go to the omsd that attached with the highest token (storage/fences.py: a lower one is refused for
ever); when a new one attaches, it has cancelled all working orders at the venue, and the strategies are told
at once. Cancels always pass. A strategy that dies or falls silent has its working orders cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.model import Phase
from hftd import bus, runtime
from hftd.engine import fixed, reasons, risk
from hftd.settings import RiskSettings
from hftd.shm import pages
from hftd.storage import fences
from hftd.wire import codec, control, market, orders, tops

WATCH_EVERY_S = 1.0

FromStrategy = orders.Place | orders.Cancel | orders.Attach | orders.Rehearsal
FromOmsd = orders.Attach | orders.Report | orders.Refusal
_from_strategy: codec.Decoder[FromStrategy] = codec.Decoder(FromStrategy)
_from_omsd: codec.Decoder[FromOmsd] = codec.Decoder(FromOmsd)


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


@dataclass(slots=True)
class Client:
    """One process of a strategy, by its link."""

    identity: bytes
    instance: str
    heard_ns: int


class Gate:
    def __init__(self, context: runtime.Context, settings: RiskSettings) -> None:
        self.context, self.settings = context, settings
        self.risk = risk.Risk(limits(settings, context.config.revision))
        self.fences = fences.Fences(context.data_dir / "fences.json")
        self.intents = bus.link.Router(context.bind("intents"))
        self.orders = bus.link.Router(context.bind("orders"))
        self.market = bus.publish.Subscriber()
        self.positions = bus.publish.Subscriber()
        self.reader = tops.Reader(context.count)
        self._omsd: bytes | None = None
        self._route = 0
        """Rank of the token of the attached omsd."""
        self._clients: dict[str, Client] = {}
        """By the instance id of the strategy's process."""
        self._approvals = 0

    def _envelope(self) -> codec.Head:
        token = self.context.lease.token()
        return self.context.head(codec.TokenOnWire.of(token) if token else None)

    # --- leadership -----------------------------------------------------------------------------------------

    def on_lease(self, lease: pages.Lease) -> None:
        """Nobody to fence: leading is being active. A standby is ready too, else nobody could be elected."""
        leads = lease.wanted is pages.Wanted.LEAD
        self.context.lease.phase(Phase.ACTIVE if leads else Phase.STANDBY, lease.epoch if leads else 0)
        self.context.set_ready(True, "")

    def _active(self) -> bool:
        return self.context.lease.current_phase is Phase.ACTIVE and self.context.lease.leads()

    # --- strategies -----------------------------------------------------------------------------------------

    def on_intent(self, identity: bytes, frame: bytes) -> None:
        message = _from_strategy(frame)
        now_ns = time.monotonic_ns()
        match message:
            case orders.Place():
                self._on_place(identity, message, now_ns)
                self.context.tick_passed(message.origin_ns)
            case orders.Cancel():
                self._on_cancel(identity, message, now_ns)
            case orders.Attach():
                self._on_hello(identity, message.claimant.instance, now_ns)
            case orders.Rehearsal():
                self._rehearse(identity, message.place, now_ns)

    def _on_hello(self, identity: bytes, instance: str, now_ns: int) -> None:
        known = self._clients.get(instance)
        if known is not None and known.identity != identity:
            self._cancel_all_of(instance, "its process is a new one")
        self._clients[instance] = Client(identity, instance, now_ns)
        active = self._active()
        self.intents.send(
            identity,
            codec.encode(
                orders.Attached(
                    *self._envelope(), active, "" if active else reasons.text(reasons.NOT_ACTIVE), 0
                )
            ),
        )

    def _on_place(self, identity: bytes, place: orders.Place, now_ns: int) -> None:
        refused = self._judge(place, now_ns)
        if refused is None:
            self.context.count("approved")
            return
        self.context.count("refused")
        self.context.count(f'refused_by{{reason="{refused.code}"}}')
        self.intents.send(
            identity, codec.encode(self._ended(place, place.side, orders.State.REFUSED, refused))
        )
        if place.replaces:
            self._on_cancel(identity, orders.cancel_of(place), now_ns)

    def _judge(self, place: orders.Place, now_ns: int) -> risk.Refused | None:
        if not self._active():
            return risk.refuse(reasons.NOT_ACTIVE)
        if self._omsd is None:
            return risk.refuse(reasons.NO_OMSD)
        refused = self.risk.approve(place, self._route, now_ns)
        if refused is not None:
            return refused
        envelope = self._envelope()
        token = envelope[4]
        self._approvals += 1
        if token is None or not self._forward(self._signed(place, envelope, token, self._approvals)):
            self.risk.withdraw(place.client_order_id)
            return risk.refuse(reasons.NO_OMSD)
        return None

    def _rehearse(self, identity: bytes, place: orders.Place, now_ns: int) -> None:
        """Everything that an order costs here, and none of what it does."""
        envelope = self._envelope()
        token = envelope[4]
        if token is None or not self._active():
            return
        self.risk.judge(place, now_ns)
        self.context.count("rehearsals")
        if not self._forward(orders.Rehearsal(*envelope, self._signed(place, envelope, token, approval=0))):
            self._say_no_omsd(identity, "", place.client_order_id)

    def _signed(
        self, place: orders.Place, envelope: codec.Head, token: codec.TokenOnWire, approval: int
    ) -> orders.Place:
        return orders.Place(
            *envelope,
            place.client_order_id,
            place.strategy,
            place.market,
            place.symbol,
            place.side,
            place.kind,
            place.price,
            place.quantity,
            place.origin_ns,
            place.origin_seq,
            approval=orders.Approval(approval, token, self.risk.limits.revision),
            replaces=place.replaces,
        )

    def _on_cancel(self, identity: bytes, cancel: orders.Cancel, now_ns: int) -> None:
        sent = self._send_cancel(
            cancel.client_order_id, cancel.strategy, cancel.market, cancel.symbol, cancel.origin_ns
        )
        self.risk.on_cancel(cancel.strategy, now_ns)
        if not sent:
            self._say_no_omsd(identity, cancel.order_id, cancel.client_order_id)

    def _say_no_omsd(self, identity: bytes, order_id: str, client_order_id: str) -> None:
        refusal = orders.Refusal(
            *self._envelope(), reasons.NO_OMSD, reasons.text(reasons.NO_OMSD), order_id, client_order_id
        )
        self.intents.send(identity, codec.encode(refusal))

    def _send_cancel(
        self, client_order_id: str, strategy: str, market_name: str, symbol: str, origin_ns: int = 0
    ) -> bool:
        return self._forward(
            orders.Cancel(*self._envelope(), client_order_id, strategy, market_name, symbol, origin_ns)
        )

    def _cancel_all_of(self, instance: str, why: str) -> None:
        gone = [
            order for order in self.risk if self._client_of(order.strategy) is self._clients.get(instance)
        ]
        for order in gone:
            self._send_cancel(order.client_order_id, order.strategy, order.market, order.symbol)
        self.context.event("strategy.lost", instance=instance, why=why, cancels=len(gone))

    def watch(self, now_ns: int) -> None:
        """Each second: whoever has been silent too long is not there any more."""
        silent_ns = int(self.settings.strategy_silent_s * 1e9)
        for instance, client in list(self._clients.items()):
            if now_ns - client.heard_ns > silent_ns:
                self._cancel_all_of(instance, f"silent for {silent_ns // 1_000_000} ms")
                del self._clients[instance]
        self.context.gauge("open_orders", len(self.risk.orders))

    def _client_of(self, strategy: str) -> Client | None:
        """Instance ids are `<service>-<host>-<n>`: of those that begin like that the shortest is the
        service's own.
        """
        mine = [client for client in self._clients.values() if client.instance.startswith(f"{strategy}-")]
        return min(mine, key=lambda client: len(client.instance), default=None)

    def _tell(self, strategy: str, frame: bytes) -> None:
        client = self._client_of(strategy)
        if client is None or not self.intents.send(client.identity, frame):
            self.context.count("undeliverable")

    # --- the order manager ----------------------------------------------------------------------------------

    def _forward(self, message: orders.Place | orders.Cancel | orders.Rehearsal) -> bool:
        return self._omsd is not None and self.orders.send(self._omsd, codec.encode(message))

    def on_order(self, identity: bytes, frame: bytes) -> None:
        """What omsd sends: Attach first, then reports."""
        message = _from_omsd(frame)
        match message:
            case orders.Attach():
                self._on_attach(identity, message)
            case orders.Report() if self._current(identity, message):
                self.risk.on_report(message, self._route)
                self._tell(message.strategy, frame)
            case orders.Refusal() if self._current(identity, message):
                self._on_refusal(message, frame)

    def _on_attach(self, identity: bytes, attach: orders.Attach) -> None:
        ok, reason = self.fences.attach(attach)
        if not ok:
            self.context.count("stale_token_refusals")
        self.orders.send(identity, codec.encode(orders.Attached(*self._envelope(), ok, reason, 0)))
        if not ok or attach.token is None:
            return
        route = attach.token.incarnation << 32 | attach.token.epoch
        if identity != self._omsd:
            self.context.event("omsd.attached", instance=attach.claimant.instance, epoch=attach.token.epoch)
        self._omsd, self._route = identity, route
        self._abandon(self.risk.abandon(route))

    def _abandon(self, gone: Iterable[risk.OpenOrder]) -> None:
        """The orders of the omsd before: tell their strategies now, so that they quote again; the reports
        that still come are old news to them.
        """
        for order in gone:
            self._tell(
                order.strategy,
                codec.encode(
                    self._ended(order, order.side, orders.State.CANCELLED, risk.refuse(reasons.TAKE_OVER))
                ),
            )

    def _current(self, identity: bytes, message: orders.Report | orders.Refusal) -> bool:
        """Only the token that attached last speaks for the group; others are told so, and a newer one then
        attaches.
        """
        if not self.fences.refuses(message.token) and identity == self._omsd:
            return True
        stale = message.token is None or self.fences.stale(message.token)
        self.context.count("stale_token_refusals" if stale else "not_attached")
        code = reasons.STALE_TOKEN if stale else reasons.NOT_ATTACHED
        order_id, client_order_id = message.order_id, message.client_order_id
        self.orders.send(
            identity,
            codec.encode(
                orders.Refusal(*self._envelope(), code, reasons.text(code), order_id, client_order_id)
            ),
        )
        return False

    def _on_refusal(self, refusal: orders.Refusal, frame: bytes) -> None:
        """omsd did not take it: of an order not heard of since, the order itself; else its cancel."""
        order = self.risk.withdraw(refusal.client_order_id)
        if order is not None:
            ended = self._ended(
                order, order.side, orders.State.REFUSED, risk.Refused(refusal.reason, refusal.text)
            )
            self._tell(order.strategy, codec.encode(ended))
            return
        if refusal.reason in reasons.ENDED:
            self.risk.forget(refusal.client_order_id)
        # `<service>-<session>-<n>`: the refusal itself does not name the strategy.
        self._tell(refusal.client_order_id.rsplit("-", 2)[0], frame)

    def _ended(
        self, order: orders.Place | risk.OpenOrder, side: orders.Side, state: orders.State, why: risk.Refused
    ) -> orders.Report:
        filled = 0 if isinstance(order, orders.Place) else order.filled
        return orders.Report(
            *self._envelope(),
            report_id=0,
            execution_id=0,
            order_id="",
            client_order_id=order.client_order_id,
            strategy=order.strategy,
            market=order.market,
            symbol=order.symbol,
            side=side,
            state=state,
            price=order.price,
            quantity=order.quantity,
            filled=filled,
            last_price=0,
            last_quantity=0,
            reason=why.code,
            text=why.text,
            venue_ns=0,
        )

    # --- what it is asked -----------------------------------------------------------------------------------

    def exposures(self, _: dict[str, object]) -> list[dict[str, str]]:
        names = ("market", "symbol", "position", "working_buy", "working_sell")
        return [
            dict(zip(names, (row[0], row[1], *map(fixed.text, row[2:])), strict=True))
            for row in self.risk.exposures()
        ]

    # --- prices and positions -------------------------------------------------------------------------------

    def on_market(self, frame: bytes) -> None:
        for instrument, message, _ in self.reader.read(frame):
            if message.kind == market.Kind.TOP and message.bids and message.asks:
                (bid, bids), (ask, asks) = message.bids[0], message.asks[0]
                known = bids > 0 and asks > 0
                self.risk.on_top(
                    instrument.market,
                    instrument.symbol,
                    bid if known else 0,
                    ask if known else 0,
                    time.monotonic_ns(),
                )
            elif message.kind == market.Kind.STATUS and not message.flags & market.IN_STEP:
                self.risk.on_top(instrument.market, instrument.symbol, 0, 0, time.monotonic_ns())

    def on_position(self, frame: bytes) -> None:
        message = orders.decode_position(frame)
        self.risk.on_position(message.market, message.symbol, message.quantity, message.last_execution)


def build(context: runtime.Context, settings: RiskSettings) -> runtime.Loop:
    gate = Gate(context, settings)
    loop = runtime.Loop(context)

    def found_marks(_: list[control.Peer]) -> None:
        gate.market.connect(context.endpoint(settings.tops, "marks"))

    def found_positions(_: list[control.Peer]) -> None:
        gate.positions.connect(context.endpoint(settings.positions, "positions"))

    loop.on_peers(settings.tops, found_marks)
    loop.on_peers(settings.positions, found_positions)
    loop.on_lease(gate.on_lease)
    loop.on_ask("risk", gate.exposures)
    # Positions and prices before intents: an order is judged by the newest of what has arrived.
    loop.on(gate.positions.socket, gate.on_position)
    loop.on(gate.market.socket, gate.on_market)
    loop.on_router(gate.orders.socket, gate.on_order)
    loop.on_router(gate.intents.socket, gate.on_intent)
    loop.every(WATCH_EVERY_S, gate.watch)
    return loop
