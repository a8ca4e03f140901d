"""riskd's approval of one order, which nobody else can make: a MAC over what was approved, under a key that
riskd and execd derive from the site's secret. Pure.

riskd approves (risk.py); execd lets no order out whose approval is not of this very order, or was used
before. What the MAC is taken over is a contract with every riskd and execd of a site (docs/protocol.md): a
change of it is another PERSON. What nobody has to approve: our id of the order, who sends it, what is
cancelled for it (taking risk away always passes).
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from hftd.engine import reasons
from hftd.wire import codec
from hftd.wire.orders import MAC_BYTES, Approval, Place

PURPOSE = "approvals"
"""Of the key, as it is derived from the site's secret."""
PERSON = b"hft-approval-1"
"""Keeps this MAC apart from any other under the same key."""

_NUMBERS = struct.Struct("<QQQQqqBBIIIIII")
"""Approval id, incarnation, epoch, limits revision, price, quantity, side, kind; then the lengths of the
texts that follow, in characters, so that none can give some of itself to its neighbour."""
_NO_RANK = (-1, -1, -1)


class Macs:
    """The MACs of one site. About 1.7 µs each."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=MAC_BYTES, person=PERSON)

    def approval(self, place: Place, number: int, token: codec.TokenOnWire, revision: int) -> Approval:
        """riskd's approval number `number` of this order; 0 is a rehearsal's, and approves nothing."""
        return Approval(number, token, revision, self._mac(place, number, token, revision))

    def fits(self, place: Place, approval: Approval) -> bool:
        """Was this approval made for this order, by one who has the key?"""
        mac = self._mac(place, approval.id, approval.token, approval.limits_revision)
        return mac != b"" and hmac.compare_digest(mac, approval.mac)

    def _mac(self, place: Place, number: int, token: codec.TokenOnWire, revision: int) -> bytes:
        """b"" for numbers that no order has: those cannot be approved."""
        client, strategy, group = place.client_order_id, place.strategy, token.group
        market, symbol, replaces = place.market, place.symbol, place.replaces
        try:
            numbers = _NUMBERS.pack(
                number,
                token.incarnation,
                token.epoch,
                revision,
                place.price,
                place.quantity,
                place.side,
                place.kind,
                len(group),
                len(client),
                len(strategy),
                len(market),
                len(symbol),
                len(replaces),
            )
        except struct.error:
            return b""
        mac = self._keyed.copy()
        mac.update(numbers + f"{group}{client}{strategy}{market}{symbol}{replaces}".encode())
        return mac.digest()


class Approvals:
    """execd's: whether an order is approved. Approvals come in the order in which riskd made them, all over
    one link, so that each is good for once: of each order manager's group the last one is remembered, in this
    process.
    """

    def __init__(self, macs: Macs) -> None:
        self._macs = macs
        self._last: dict[str, tuple[int, int, int]] = {}

    def take(self, place: Place) -> str:
        """Use up the approval of an order whose token passes; "" when it is good, else why it is not."""
        approval = place.approval
        if approval is None or approval.id <= 0:
            return reasons.NO_APPROVAL
        if not self._macs.fits(place, approval):
            return reasons.FORGED_APPROVAL
        group, token = place.token.group if place.token else "", approval.token
        rank = (token.incarnation, token.epoch, approval.id)
        if rank <= self._last.get(group, _NO_RANK):
            return reasons.APPROVAL_USED
        self._last[group] = rank
        return ""

    def rehearse(self, place: Place) -> None:
        """What `take` costs, and nothing of what it does (ADR 0025)."""
        if place.approval is not None:
            self._macs.fits(place, place.approval)
