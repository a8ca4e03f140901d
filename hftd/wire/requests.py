"""Questions about market data and the credit that paces a replay: simd's `snapshots` socket and marketd's
`requests` socket.

bookd asks marketd, marketd asks simd; what comes back as a snapshot travels on to bookd inside the market
stream, in sequence with the rest. The envelope is codec.Message; a receiver ignores fields that it does not
know.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from controlplane.errors import InvalidInput
from hftd.wire.codec import NAME_MAX, Decoder, Message


class Instrument(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Reference data. Repeated on the market stream as the payload of an INSTRUMENT message."""

    id: int
    """Valid within one session of the feed; orders and journals name market and symbol instead."""
    market: str
    """spot, usdm or cm."""
    symbol: str
    price_exponent: int
    quantity_exponent: int
    contract: str
    """spot, linear or inverse, as the venue has it; sized or inexact where reference data says that it cannot
    be booked in our units."""

    @property
    def name(self) -> str:
        return f"{self.market}:{self.symbol}"

    @property
    def untradable(self) -> str:
        """Why it only feeds books, and every order in it is refused; empty where it may be traded. Said when
        a daemon begins with it, so that no order ends by it later.
        """
        if self.contract in TRADABLE:
            return ""
        return UNTRADABLE.get(self.contract, f"a contract of the unknown kind {self.contract[:40]!r}")


TRADABLE = ("spot", "linear")
UNTRADABLE = {
    "inverse": "an inverse contract: its cash would be in the base currency",
    "sized": "a contract stands for more or less than one unit, and accounts count units",
    "inexact": "tick x lot is below 1e-8 of the quote currency, which cash is counted in",
}
"""Contract -> why nobody trades it."""

IDS = range(1 << 16)
"""As wide as an instrument's id in the market stream."""


def checked(instruments: Sequence[Instrument]) -> Sequence[Instrument]:
    """The same instruments. Raises InvalidInput for an id that is out of range or given twice, and for a name
    that is too long.
    """
    seen: set[int] = set()
    for each in instruments:
        if each.id not in IDS or each.id in seen:
            raise InvalidInput(f"instrument {each.id}: ids are different numbers below {len(IDS)}")
        if max(len(each.market), len(each.symbol)) > NAME_MAX:
            raise InvalidInput(f"instrument {each.id}: a name of over {NAME_MAX} characters")
        seen.add(each.id)
    return instruments


class InstrumentsWanted(Message, tag=1, frozen=True):
    pass


class Instruments(Message, tag=2, frozen=True):
    instruments: list[Instrument]


class SnapshotWanted(Message, tag=3, frozen=True):
    """Asked again until a snapshot comes: an answer may be lost with the process that gave it."""

    instrument: int


class SnapshotFrame(Message, tag=4, frozen=True):
    instrument: int
    receive_ns: int
    raw: bytes
    """The venue's own snapshot, verbatim: {"lastUpdateId": ..., "bids": [...], "asks": [...]}."""


class Credit(Message, tag=5, frozen=True):
    """bookd -> marketd: messages of market session `session` may be published up to sequence `cumulative`.

    It counts from the session's beginning, so a lost or repeated Credit does no harm; one for another session
    is ignored.
    """

    session: int
    cumulative: int


Asked = InstrumentsWanted | SnapshotWanted | Credit
Answered = Instruments | SnapshotFrame

decode_asked: Decoder[Asked] = Decoder(Asked)
decode_answered: Decoder[Answered] = Decoder(Answered)

encode_instrument = msgspec.msgpack.Encoder().encode
decode_instrument: Decoder[Instrument] = Decoder(Instrument)
"""Of an INSTRUMENT message's payload. Raises InvalidInput."""
