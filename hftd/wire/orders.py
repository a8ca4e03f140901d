"""Orders and what comes back: one set of messages for every link of the order path (docs/protocol.md has the
path, link by link).

Prices and quantities are int64 in units of 1e-8; an instrument is named by market and symbol, so that a
journal or an audit log can be read without reference data. `token` of the envelope is omsd's on all that omsd
sends; execd adds its own as `gateway`.

Texts are as long as their types say: a longer one does not decode. So what is journaled fits a replication
message, and what is audited a line of the log. A Report has no such bounds: it also comes in lists, of which
one entry must not cost the others; engine/orders/report_check.py judges each.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from hftd.wire.codec import Decoder, Message, Name, ProcessOnWire, TokenOnWire


class Side(IntEnum):
    BUY = 1
    SELL = 2


class Kind(IntEnum):
    LIMIT = 1
    POST_ONLY = 2
    """Rejected if it would take."""
    IOC = 3
    """What does not fill at once is cancelled."""


class OrderState(IntEnum):
    """Of an order. The legal moves are a table in engine/orders/order.py."""

    PENDING_NEW = 1
    """Journaled, on its way to the venue."""
    WORKING = 2
    PARTIALLY_FILLED = 3
    PENDING_CANCEL = 4
    FILLED = 5
    CANCELLED = 6
    REJECTED = 7
    """By the venue."""
    REFUSED = 8
    """By us (riskd, omsd, execd): it never reached the venue."""
    UNKNOWN = 9
    """Sent, never answered, and the cancel of it was refused or not sent: it may work at the venue or not.
    Only the venue's word ends this: a report, or what it tells at a take-over."""


MAC_BYTES = 16
Mac = Annotated[bytes, msgspec.Meta(max_length=MAC_BYTES)]
TEXT_MAX = 4096
Text = Annotated[str, msgspec.Meta(max_length=TEXT_MAX)]
"""A sentence for people."""
DETAILS_MAX = 64


class Approval(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """riskd's signature under one order: omsd refuses an order without it, execd one that it does not fit."""

    id: int
    """From 1; 0 approves nothing."""
    token: TokenOnWire
    limits_revision: int
    mac: Mac = b""
    """Of MAC_BYTES, over the order and the fields above (engine/orders/approvals.py)."""


# --- towards the venue --------------------------------------------------------------------------------------


class Place(Message, tag=1, frozen=True):
    """strategyd -> riskd (no approval, no id) -> omsd (approval) -> execd (order id) -> simd (gateway)."""

    client_order_id: Name
    """The strategy's; unique in its service for ever (a duplicate is refused)."""
    strategy: Name
    """Service name of the strategy."""
    market: Name
    symbol: Name
    side: Side
    kind: Kind
    price: int
    quantity: int
    origin_ns: int
    """CLOCK_MONOTONIC ns at which marketd read the frame that caused it; 0: no such frame."""
    origin_seq: int
    order_id: Name = ""
    """omsd's: `<group>-<epoch>-<n>`."""
    approval: Approval | None = None
    gateway: TokenOnWire | None = None
    replaces: Name = ""
    """Client order id of an order that is cancelled first: one message moves a quote. The two stand for
    themselves: a daemon that does not take the new order still cancels the old one, and the new one is placed
    whatever has become of the old."""
    replaced_id: Name = ""
    """omsd's id of that order; empty when there is none to cancel."""


class Cancel(Message, tag=2, frozen=True):
    """Same path as Place; needs no approval: taking risk away always passes."""

    client_order_id: Name
    strategy: Name
    market: Name
    symbol: Name
    origin_ns: int
    order_id: Name = ""
    gateway: TokenOnWire | None = None


def cancel_of(place: Place) -> Cancel:
    """The half of a replacement that takes risk away."""
    return Cancel(
        version=place.version,
        seq=place.seq,
        sent_ns=place.sent_ns,
        source=place.source,
        token=place.token,
        client_order_id=place.replaces,
        strategy=place.strategy,
        market=place.market,
        symbol=place.symbol,
        origin_ns=place.origin_ns,
        order_id=place.replaced_id,
        gateway=place.gateway,
    )


class CancelAll(Message, tag=3, frozen=True):
    """omsd -> execd -> simd at a take-over; the reports of the cancelled orders come before CancelledAll."""

    request: int
    gateway: TokenOnWire | None = None


class OpenOrdersWanted(Message, tag=4, frozen=True):
    request: int
    gateway: TokenOnWire | None = None


class ExecutionsWanted(Message, tag=5, frozen=True):
    request: int
    after_execution: int
    """All with a higher execution id."""
    gateway: TokenOnWire | None = None


class AccountsWanted(Message, tag=6, frozen=True):
    request: int


class Rehearsal(Message, tag=7, frozen=True):
    """strategyd -> riskd -> omsd -> execd, as a Place goes, and no further: an order that is judged, signed,
    numbered and packed like any other, and that nobody takes, so that the real one finds the caches of the
    whole path warm (ADR 0025). A type of its own, with an approval that approves nothing (id 0): what is
    inside cannot become an order by mistake, and the venue does not know the type.
    """

    place: Place


# --- leadership ---------------------------------------------------------------------------------------------


class Fence(Message, tag=8, frozen=True):
    """`token` is the new fence of its group; who has acknowledged it refuses lower ones for ever (R10)."""

    claimant: ProcessOnWire
    gateway: TokenOnWire | None = None
    """execd -> simd: execd's own token beside the client group's."""
    mac: Mac = b""
    """Of MAC_BYTES, over the claim and the link that it is sent over (engine/orders/claims.py)."""


class Fenced(Message, tag=9, frozen=True):
    """The answer. `ok` only after the fence is on disk."""

    group: Name
    epoch: int
    ok: bool
    reason: Text
    waits: bool = False
    """Not ok, and not settled either: the store's word is missing (storage/heights.py). Ask again."""
    session: int = 0
    """The venue's process: another number is a venue that was restarted. 0: not said."""


class Attach(Message, tag=10, frozen=True):
    """omsd, leading, to riskd, positiond and auditd: "I hold this token"; reports and orders of the group go
    to this link from now on. A strategy's hello to riskd: what concerns the orders of `service` goes to this
    link from now on.
    """

    claimant: ProcessOnWire
    service: Name = ""
    """A strategy's: the name that its orders carry as `strategy`. Empty where the token names the group."""
    mac: Mac = b""
    """As a Fence's. Empty in a strategy's, which claims no token, and in a journal."""


class Attached(Message, tag=11, frozen=True):
    ok: bool
    reason: Text
    last_seq: int
    """positiond: last execution id applied; auditd: last audit sequence of this group kept; riskd: 0."""


# --- coming back --------------------------------------------------------------------------------------------


class Report(Message, tag=16, frozen=True):
    """What happened to one order. simd -> execd -> omsd -> riskd -> strategyd, and omsd -> positiond for
    executions.
    """

    report_id: int
    """execd's count of reports, acknowledged by ReportsSeen; the same report sent again keeps it. 0 beyond
    omsd."""
    execution_id: int
    """The venue's, rising; 0: not an execution. An execution is applied once for each id."""
    order_id: str
    client_order_id: str
    strategy: str
    market: str
    symbol: str
    side: Side
    state: OrderState
    price: int
    quantity: int
    filled: int
    last_price: int
    last_quantity: int
    reason: str
    """A code (engine/reasons.py) when rejected, refused or cancelled unasked; else ""."""
    text: str
    venue_ns: int


class ReportsSeen(Message, tag=17, frozen=True):
    up_to: int


class CancelledAll(Message, tag=18, frozen=True):
    request: int
    cancelled: int


class OpenOrder(msgspec.Struct, array_like=True, frozen=True, gc=False):
    order_id: str
    client_order_id: str
    strategy: str
    market: str
    symbol: str
    side: Side
    price: int
    quantity: int
    filled: int


class OpenOrders(Message, tag=19, frozen=True):
    request: int
    orders: list[OpenOrder]


class Executions(Message, tag=20, frozen=True):
    request: int
    executions: list[Report]


class Account(msgspec.Struct, array_like=True, frozen=True, gc=False):
    market: str
    symbol: str
    quantity: int
    """Net, 1e-8 of the base (or contracts)."""
    cash: int
    """1e-8 of the quote currency."""


class Accounts(Message, tag=21, frozen=True):
    request: int
    accounts: list[Account]
    last_execution: int


class Refusal(Message, tag=22, frozen=True):
    """To a sender whose message was not taken at all (stale token, not active)."""

    reason: Name
    text: Text
    order_id: Name = ""
    client_order_id: Name = ""
    strategy: Name = ""
    """Whose order it was, so that riskd can pass the refusal on."""


class Position(Message, tag=23, frozen=True):
    """positiond's PUB."""

    market: Name
    symbol: Name
    quantity: int
    cash: int
    average_price: int
    realised: int
    unrealised: int
    last_execution: int
    doubtful: bool = False
    """The quantity is not to be relied on (engine/position.py): no new risk is taken by it."""


class ExecutionsTold(Message, tag=24, frozen=True):
    """omsd -> positiond: above `after` and up to `up_to` there are `count` executions, whatever their ids,
    and each was sent. Answered with ReportsSeen.
    """

    after: int
    up_to: int
    count: int


# --- audit and replication ----------------------------------------------------------------------------------


class AuditRecord(Message, tag=32, frozen=True):
    """omsd -> auditd. (epoch, audit_seq) is unique and rises; sent again until seen."""

    audit_seq: int
    action: Name
    """ORDER_PLACED, ORDER_REFUSED, ORDER_ACKNOWLEDGED, ORDER_FILLED, ORDER_CANCELLED, ORDER_REJECTED,
    CANCEL_REQUESTED, LEAD_TAKEN ..."""
    user: Name
    timestamp_ns: int
    details: Annotated[dict[Name, Name | int], msgspec.Meta(max_length=DETAILS_MAX)]


class AuditSeen(Message, tag=33, frozen=True):
    up_to: int


ENDS_MAX = 1_000
"""Of the newest terms, in a standby's greeting: more take-overs than a journal keeps."""


class ReplicaAttach(Message, tag=40, frozen=True):
    """Standby -> leader. `ends`: where each epoch ends in the standby's journal, [(epoch, sequence)]."""

    process: ProcessOnWire
    ends: Annotated[list[tuple[int, int]], msgspec.Meta(max_length=ENDS_MAX)]


class ReplicaFrom(Message, tag=41, frozen=True):
    """Leader -> standby: the last record that both have; the standby sets aside what it has beyond."""

    epoch: int
    sequence: int
    audited: int = 0
    """As in ReplicaRecord: a standby learns it of a leader that has nothing new, too."""


class ReplicaRecord(Message, tag=42, frozen=True):
    epoch: int
    sequence: int
    payload: bytes
    previous: int = 0
    """Sequence of the record before it in the leader's journal; a standby appends behind exactly that one."""
    audited: int = 0
    """Up to this sequence auditd has all records: where a new leader begins to send them again."""
    confirmed: int = 0
    """Whoever has this record has every execution up to here (the venue has confirmed it); 0: nothing new."""


class ReplicaSeen(Message, tag=43, frozen=True):
    sequence: int


TowardsVenue = (
    Place
    | Cancel
    | CancelAll
    | OpenOrdersWanted
    | ExecutionsWanted
    | AccountsWanted
    | Fence
    | Attach
    | ReportsSeen
    | AuditRecord
)
TowardsExecution = TowardsVenue | Rehearsal
ComingBack = (
    Report
    | CancelledAll
    | OpenOrders
    | Executions
    | Accounts
    | Fenced
    | Attached
    | Refusal
    | AuditSeen
    | Place
    | Cancel
    | Rehearsal
)
Replica = ReplicaAttach | ReplicaFrom | ReplicaRecord | ReplicaSeen

decode_towards_venue: Decoder[TowardsVenue] = Decoder(TowardsVenue)
decode_towards_execution: Decoder[TowardsExecution] = Decoder(TowardsExecution)
decode_coming_back: Decoder[ComingBack] = Decoder(ComingBack)
"""Place, Cancel and Rehearsal are in it because riskd answers omsd's link with them."""
decode_replica: Decoder[Replica] = Decoder(Replica)
decode_position: Decoder[Position] = Decoder(Position)
