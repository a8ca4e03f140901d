"""The token of each group that the store is known to hold: what the agent says (`Tokens`), or the fence file
where that is newer.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.errors import InvalidInput
from controlplane.model import Token, in_range
from hftd.runtime.leadership import Leadership
from hftd.wire.codec import TokenOnWire


class StoreTokens:
    def __init__(self, lease: Leadership) -> None:
        self._lease = lease
        self._told: dict[str, Token] = {}

    def tell(self, tokens: Iterable[TokenOnWire]) -> None:
        """The agent's whole list; one that is out of range is left out."""
        self._told = {each.group: each.token() for each in tokens if in_range(each.incarnation, each.epoch)}

    def told(self, group: str) -> Token | None:
        """By the agent alone."""
        return self._told.get(group)

    def highest(self, group: str) -> Token | None:
        """Reads the fence file, so not for every order."""
        found = (self._told.get(group), self._in_file(group))
        return max((each for each in found if each is not None), key=lambda each: each.rank, default=None)

    def _in_file(self, group: str) -> Token | None:
        try:
            target = self._lease.fences().get(group)
        except InvalidInput:  # a keeper writes it whole: it is not one of its; the agent's word counts
            return None
        token = None if target is None else target.token
        return token if token is not None and in_range(token.incarnation, token.epoch) else None
