"""What omsd signs with: the token of the epoch that it leads, in every envelope and beside every record; and
the MAC under each claim of that token.
"""

from __future__ import annotations

from controlplane.model import Token
from hftd import runtime
from hftd.engine.orders import claims, term
from hftd.wire import codec, orders


class Signature:
    """Kept after the lead is lost: what is still sent (a standby's acknowledgements) names the last epoch."""

    def __init__(self, context: runtime.Context) -> None:
        self._context = context
        self._macs = claims.Macs(context.key(claims.PURPOSE))
        self.token: codec.TokenOnWire | None = None
        self.term = 0
        """The same token, as the journal's records have it."""

    def sign(self, token: Token) -> None:
        self.token, self.term = codec.TokenOnWire.of(token), term.of(token)

    @property
    def epoch(self) -> int:
        return self.token.epoch if self.token else 0

    def head(self) -> codec.Head:
        """The next envelope."""
        return self._context.head(self.token)

    def claimant(self) -> codec.ProcessOnWire:
        """Who claims the token: this process."""
        return codec.ProcessOnWire.of(self._context.process)

    def fence(self, link: bytes) -> orders.Fence:
        """Our claim, as it is sent over the DEALER of this identity."""
        return self._macs.fence(orders.Fence(*self.head(), self.claimant()), link)

    def attach(self, link: bytes) -> orders.Attach:
        return self._macs.attach(orders.Attach(*self.head(), self.claimant()), link)

    def attach_for(self, of_term: int, link: bytes) -> orders.Attach:
        """The same under the token of an epoch that is over."""
        token = codec.TokenOnWire.of(term.token(of_term, self._context.service))
        return self._macs.attach(orders.Attach(*self._context.head(token), self.claimant()), link)
