"""execd's link to the venue: everything on it carries execd's own token as `gateway`; a keep-alive, and an
alarm when the venue does not answer; a circuit breaker for new orders alone.

What may be sent, and when: daemon.py and desk.py. What the venue says: daemon.py.
"""

from __future__ import annotations

import time

from hftd import bus, runtime
from hftd.engine.orders import claims
from hftd.engine.orders.awaited import Awaited
from hftd.engine.orders.gateway import Gateway, VenueFence
from hftd.settings import ExecutionSettings
from hftd.wire import codec, orders

VENUE_SILENCE = 4
"""Keep-alives without an answer before the venue is said to be silent."""

Sendable = orders.Place | orders.Cancel | orders.CancelAll | orders.OpenOrdersWanted | orders.ExecutionsWanted


class Venue:
    def __init__(self, context: runtime.Context, settings: ExecutionSettings, gateway: Gateway) -> None:
        self._context, self._settings, self._gateway = context, settings, gateway
        self.dealer = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.send_packed = self.dealer.send
        self._macs = claims.Macs(context.key(claims.PURPOSE))
        self._heard_ns = self._keep_alive_ns = 0
        guarded = context.breakers.add(f"{context.service}.{settings.venue}", settings.breaker.breaker())
        self.awaited = Awaited(guarded, settings.breaker)

    def configure(self, settings: ExecutionSettings) -> None:
        self._settings = settings
        self.awaited.configure(settings.breaker)
        every_ns = int(settings.venue_keep_alive_s * 1e9)
        self._keep_alive_ns = min(self._keep_alive_ns, time.monotonic_ns() + every_ns)

    def found(self) -> None:
        """Its endpoint may have changed; a venue that is new learns at once who we are."""
        endpoint = self._context.endpoint(self._settings.venue, "orders")
        if endpoint != self.dealer.endpoint:
            self.awaited.another_process(time.monotonic_ns())
        self.dealer.connect(endpoint)
        self._keep_alive_ns = 0

    def heard(self) -> None:
        self._heard_ns = time.monotonic_ns()

    def packed(self, message: Sendable) -> bytes:
        """The message as it leaves us, with our token beside the order manager's."""
        return codec.encode(codec.replace(message, gateway=self._gateway.on_wire))

    def send(self, message: Sendable) -> bool:
        """False when the venue cannot be reached; the message was not sent."""
        return self.send_packed(self.packed(message))

    def fence(self, claim: VenueFence) -> bool:
        head = self._context.head(codec.TokenOnWire.of(claim.token))
        claimant = codec.ProcessOnWire.of(claim.claimant)
        fence = orders.Fence(*head, claimant, self._gateway.on_wire)
        return self.send_packed(codec.encode(self._macs.fence(fence, self.dealer.identity)))

    def keep_alive(self, now_ns: int) -> None:
        """While active: our own fence again, at intervals; the answers show that the venue is there."""
        if now_ns < self._keep_alive_ns or self._gateway.token is None:
            return
        every_ns, venue = int(self._settings.venue_keep_alive_s * 1e9), self._settings.venue
        self._keep_alive_ns = now_ns + every_ns
        self.fence(VenueFence(self._gateway.token, self._context.process))
        if now_ns - self._heard_ns > VENUE_SILENCE * every_ns:
            text = f"{venue} does not answer; orders may not reach it"
            self._context.alarm("venue_silent", "critical", text, subject=venue)
        else:
            self._context.clear("venue_silent")
