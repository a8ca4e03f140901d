"""A claim of a token (Fence, Attach), which nobody else can make: a MAC over who claims what over which link,
under a key that claimants and receivers derive from the site's secret. Pure.

Signed where it is sent, checked by each receiver before anything else is done with it. The link is the
ROUTER identity that the claim comes in over, so that a copy is worth nothing over another connection. What
the MAC is taken over is a contract (docs/protocol.md): a change of it is another PERSON. Everything is
covered but the rest of the envelope (version, seq, send time, source), which says nothing of who leads.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from hftd.wire import codec
from hftd.wire.orders import MAC_BYTES, Attach, Fence

PURPOSE = "fences"
"""Of the key, as it is derived from the site's secret."""
PERSON = b"hft-claim-1"
"""Keeps this MAC apart from any other under the same key."""

Claim = Fence | Attach

_NUMBERS = struct.Struct("<BBQQQQQQIIIIII")
"""Message type, 1 with a gateway, incarnation, epoch, the gateway's incarnation and epoch, pid, start time;
then the lengths of what follows, in bytes, so that none can give some of itself to its neighbour."""
_NO_TOKEN = codec.TokenOnWire(0, "", 0)


class Macs:
    """The MACs of one site."""

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=MAC_BYTES, person=PERSON)

    def fence(self, message: Fence, link: bytes) -> Fence:
        """As it is sent over the DEALER of this identity."""
        return codec.replace(message, mac=self._mac(message, link))

    def attach(self, message: Attach, link: bytes) -> Attach:
        return codec.replace(message, mac=self._mac(message, link))

    def fits(self, message: Claim, link: bytes) -> bool:
        """Was this claim made for this link, by one who has the key?"""
        mac = self._mac(message, link)
        return mac != b"" and hmac.compare_digest(mac, message.mac)

    def _mac(self, message: Claim, link: bytes) -> bytes:
        """b"" for a claim of no token, and for numbers that none has: those cannot be made."""
        token, who, gateway, service = message.token, message.claimant, None, ""
        if isinstance(message, Fence):
            kind, gateway = 8, message.gateway
        else:
            kind, service = 10, message.service
        if token is None:
            return b""
        beside = gateway or _NO_TOKEN
        names = (token.group, who.instance, who.boot_id, beside.group, service)
        texts = (*(name.encode() for name in names), link)
        try:
            numbers = _NUMBERS.pack(
                kind,
                gateway is not None,
                token.incarnation,
                token.epoch,
                beside.incarnation,
                beside.epoch,
                who.pid,
                who.start_time,
                *map(len, texts),
            )
        except struct.error:
            return b""
        mac = self._keyed.copy()
        mac.update(numbers + b"".join(texts))
        return mac.digest()
