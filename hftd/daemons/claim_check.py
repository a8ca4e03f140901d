"""A receiver's first look at a Fence or an Attach: was it made by one of the site, for this very link?

Used by every daemon that keeps fences. What the MAC says: engine/orders/claims.py. One that is not authentic
is not admitted, not written, answered `forged_claim`, counted (`forged_claims`), and the critical alarm
`forged_claims` until none has come for a minute; the true link keeps what it has. How high a token of an
authentic one is believed, and who claimed it first: storage/fences.py.
"""

from __future__ import annotations

import time

from hftd import runtime
from hftd.engine import reasons
from hftd.engine.orders import claims
from hftd.storage import fences
from hftd.wire import orders

QUIET_NS = 60_000_000_000
"""Long enough for somebody to look, and for one attacker to make one alarm, not a thousand."""
ALARM = "forged_claims"
_TEXT = (
    "a FENCE or Attach that no process of this site made for its connection was refused; the link that "
    "stands stays. Its sender forges claims, or the daemons are of different releases or have different "
    "site.key files"
)


class ClaimCheck:
    def __init__(self, context: runtime.Context) -> None:
        """Raises InvalidInput naming the file of the site's secret."""
        self._context = context
        self._macs = claims.Macs(context.key(claims.PURPOSE))
        self._last_ns: int | None = None

    def authentic(self, link: bytes, claim: claims.Claim) -> bool:
        """False is counted and alarmed; the caller answers FORGED_CLAIM and keeps nothing."""
        if self._macs.fits(claim, link):
            return True
        self._last_ns = time.monotonic_ns()
        self._context.count("forged_claims")
        self._context.alarm(ALARM, "critical", _TEXT)
        return False

    def attach(self, link: bytes, attach: orders.Attach, kept: fences.Fences) -> tuple[bool, str]:
        """Admit the sender of an Attach as its group's leader: (True, "") once its token is on disk, else
        (False, why); counted."""
        if not self.authentic(link, attach):
            return False, reasons.FORGED_CLAIM
        ok, reason = kept.attach(attach)
        if not ok and reason != reasons.BEING_WRITTEN:
            self._context.count(kept.refusal_counter(attach.token))
        return ok, reason

    def look(self, now_ns: int) -> None:
        """Each second."""
        if self._last_ns is not None and now_ns - self._last_ns >= QUIET_NS:
            self._last_ns = None
            self._context.clear(ALARM)
