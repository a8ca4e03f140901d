"""What omsd signs with: the token of the epoch that it leads, in every envelope and beside every record."""

from __future__ import annotations

from controlplane.model import Token
from hftd import runtime
from hftd.engine.orders import term
from hftd.wire import codec


class Signature:
    """Kept after the lead is lost: what is still sent (a standby's acknowledgements) names the last epoch."""

    def __init__(self, context: runtime.Context) -> None:
        self._context = context
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
