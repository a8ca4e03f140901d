"""riskd's link to the order manager: orders go to the omsd that attached with the highest token.

A lower token is refused for ever (storage/fences.py); an omsd that speaks without having attached is told so,
and a leading one then attaches. What its reports mean: engine/orders/risk.py; who wires it: daemon.py.
"""

from __future__ import annotations

from collections.abc import Callable

from hftd import bus, runtime
from hftd.daemons import fence_keeping
from hftd.daemons.claim_check import ClaimCheck
from hftd.engine import reasons
from hftd.engine.orders import answers, term
from hftd.storage import fences
from hftd.wire import codec, orders

FromOmsd = orders.Attach | orders.Report | orders.Refusal
decode: codec.Decoder[FromOmsd] = codec.Decoder(FromOmsd)


class OrderManager:
    def __init__(
        self,
        context: runtime.Context,
        make_head: Callable[[], codec.Head],
        on_attached: Callable[[], None],
    ) -> None:
        """`on_attached`: an omsd has the orders now, perhaps the same one."""
        self._context, self._head, self._on_attached = context, make_head, on_attached
        self.fences = fences.Fences(
            context.data_dir / "fences.json",
            context.store_tokens.highest,
            fence_keeping.in_background(context, self._fences_written),
        )
        self._waiting: tuple[bytes, orders.Attach] | None = None
        """An Attach whose fence is being written."""
        self.claims = ClaimCheck(context)
        self.router = bus.link.Router(context.bind("orders"))
        self._link: bytes | None = None
        self.route = 0
        """The term of the attached omsd; 0: none has attached."""

    @property
    def attached(self) -> bool:
        return self._link is not None

    def send(self, message: orders.Place | orders.Cancel | orders.Rehearsal) -> bool:
        """False when there is no omsd, or its link is full; the message was not sent."""
        return self._link is not None and self.router.send(self._link, codec.encode(message))

    def attach(self, identity: bytes, attach: orders.Attach) -> None:
        """Take an omsd's Attach, and answer it once its fence is on disk."""
        ok, reason = self.claims.attach(identity, attach, self.fences)
        if reason == reasons.BEING_WRITTEN:
            self._waiting = (identity, attach)
            return
        self.router.send(identity, codec.encode(orders.Attached(*self._head(), ok, reason, last_seq=0)))
        if not ok or attach.token is None:
            return
        if identity != self._link:
            self._context.event("omsd.attached", instance=attach.claimant.instance, epoch=attach.token.epoch)
        self._link, self.route = identity, term.of(attach.token)
        self._on_attached()

    def _fences_written(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self.attach(*waiting)

    def speaks(self, identity: bytes, message: orders.Report | orders.Refusal) -> bool:
        """Does this come from the omsd that attached last? Any other is told why it does not count."""
        token = message.token
        if not self.fences.refuses(token) and identity == self._link:
            return True
        stale = token is None or self.fences.stale(token)
        self._context.count("stale_token_refusals" if stale else "not_attached")
        code = reasons.STALE_TOKEN if stale else reasons.NOT_ATTACHED
        self.router.send(identity, codec.encode(answers.refusal(self._head(), message, code)))
        return False
