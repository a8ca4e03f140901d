"""riskd's link to the strategies: their orders come in, and what becomes of each goes back to whose it is.

A strategy says who it is in its hello (Attach, each second); engine/orders/clients.py remembers. A refusal of
what has just come goes back on the link that it came from, said hello or not. Who wires it: daemon.py.
"""

from __future__ import annotations

from hftd import bus, runtime
from hftd.engine.orders import clients
from hftd.wire import codec, orders

FromStrategy = orders.Place | orders.Cancel | orders.Attach | orders.Rehearsal
decode: codec.Decoder[FromStrategy] = codec.Decoder(FromStrategy)


class Strategies:
    def __init__(self, context: runtime.Context, silent_ns: int) -> None:
        self._context = context
        self.router = bus.link.Router(context.bind("intents"))
        self.clients = clients.Clients(silent_ns)

    def answer(self, link: bytes, message: orders.Report | orders.Refusal | orders.Attached) -> None:
        """On the link that the message in question came from; a strategy that is gone needs no answer."""
        self.router.send(link, codec.encode(message))

    def tell(self, strategy: str, message: orders.Report | orders.Refusal) -> None:
        """To the process that speaks for this strategy now."""
        self.pass_on(strategy, codec.encode(message))

    def pass_on(self, strategy: str, frame: bytes) -> None:
        link = self.clients.link_of(strategy)
        if link is None or not self.router.send(link, frame):
            self._context.count("undeliverable")
