"""How high a token a receiver believes without the store's word, and what it was asked to believe beyond.

A fence cannot be taken back by a token, so one message with a made-up epoch would lock its group out. What
the store is known to hold (told by the agent, or read from the fence file) is confirmed; WINDOW epochs above
it are believed, so that a failover waits for nobody. Anything else (a higher incarnation, a greater leap, a
group of which nothing is known) waits: not written, not acknowledged. Nothing is queued: its claimant asks
again, and is let in once the store's word has come. What is kept here is for the alarm alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from controlplane.model import Process, Token, in_range
from hftd.wire import codec

WINDOW = 64
"""Epochs above the confirmed one: the hand-overs that may happen while the agent is away, and no more than a
few seconds of them lie between a take and the agent's word of it."""
CLAIMS_MAX = 16
"""Kept to be shown. Whoever floods can hide a claim from the alarm's text, not keep it out."""
FORGET_NS = 600 * 1_000_000_000
"""A claim that is not repeated is shown for ten minutes."""

Rank = tuple[int, int]
StoreToken = Callable[[str], Token | None]
"""The token that the store is known to hold for a group; None: nothing is known."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A token that was asked for and not believed."""

    token: Token
    claimant: Process
    since_ns: int
    """CLOCK_MONOTONIC ns of the first time, and of the last."""
    last_ns: int
    store: Token | None
    """What the store was known to hold then."""


class Heights:
    def __init__(
        self,
        held: Mapping[str, Rank],
        store_token: StoreToken,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`held`: the fences as they were read at the start; they count where the store's token is not
        known, so that a receiver needs nobody to go on. What is admitted later does not move the window:
        else it would be climbed in steps.
        """
        self._held = dict(held)
        self._store_token, self._mono_ns = store_token, mono_ns
        self._claims: dict[tuple[str, int, int, Process], Claim] = {}

    def judge(self, token: codec.AnyToken, claimant: Process) -> str:
        """Why this token is not believed; "" when it is. What is not believed is kept for the alarm."""
        known = self._known(token.group)
        objection = _objection(token, known)
        if objection:
            self._keep(token, claimant)
        return objection

    def believes(self, token: codec.AnyToken) -> bool:
        return not _objection(token, self._known(token.group))

    def reset(self, token: Token) -> None:
        """The group's fence was set to what the store holds."""
        self._held[token.group] = token.rank

    def claims(self, fence: Callable[[str], Token | None]) -> list[Claim]:
        """What still waits, oldest first. Gone is what the group's fence has reached, what would be believed
        now, and what was not repeated for FORGET_NS.
        """
        now_ns = self._mono_ns()
        for key, claim in list(self._claims.items()):
            held = fence(claim.token.group)
            passed = held is not None and claim.token.rank <= held.rank
            if passed or now_ns - claim.last_ns > FORGET_NS or self.believes(claim.token):
                del self._claims[key]
        return sorted(self._claims.values(), key=lambda claim: claim.since_ns)

    def _known(self, group: str) -> Rank | None:
        store = self._store_token(group)
        return store.rank if store is not None else self._held.get(group)

    def _keep(self, token: codec.AnyToken, claimant: Process) -> None:
        now_ns = self._mono_ns()
        key = (token.group, token.incarnation, token.epoch, claimant)
        if key in self._claims:
            self._claims[key] = replace(self._claims[key], last_ns=now_ns)
        elif len(self._claims) < CLAIMS_MAX:
            kept = Token(token.incarnation, token.group, token.epoch)
            self._claims[key] = Claim(kept, claimant, now_ns, now_ns, self._store_token(token.group))


def _objection(token: codec.AnyToken, known: Rank | None) -> str:
    found = f"group {token.group!r}: token {token.incarnation}/{token.epoch}"
    if not in_range(token.incarnation, token.epoch):
        return f"{found} is out of range: no store gives it out"
    if known is None:
        return f"{found} is not confirmed: the store's token of this group is not known here yet"
    if token.incarnation > known[0] or (token.incarnation == known[0] and token.epoch > known[1] + WINDOW):
        return f"{found} is not confirmed: the store is known to hold {known[0]}/{known[1]}"
    return ""
