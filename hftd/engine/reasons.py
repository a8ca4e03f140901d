"""Why an order was refused, rejected or cancelled unasked: codes for machines, a sentence for people.

A code never changes its meaning: audit logs keep it for years. Pure.
"""

from __future__ import annotations

# riskd, before the order leaves us
ORDER_SIZE = "order_size"
POSITION_LIMIT = "position_limit"
PRICE_COLLAR = "price_collar"
MESSAGE_RATE = "message_rate"
NO_PRICE = "no_price"
STALE_PRICE = "stale_price"
NO_POSITION = "no_position"
UNKNOWN_INSTRUMENT = "unknown_instrument"
NOT_POSITIVE = "not_positive"
OVERFLOW = "overflow"
NO_OMSD = "no_omsd"
NOT_ATTACHED = "not_attached"
# omsd and execd
NO_APPROVAL = "no_approval"
FORGED_APPROVAL = "forged_approval"
APPROVAL_USED = "approval_used"
STALE_TOKEN = "stale_token"
NOT_FENCED = "not_fenced"
WRONG_LINK = "wrong_link"
FORGED_CLAIM = "forged_claim"
BEING_WRITTEN = "being_written"
NOT_ACTIVE = "not_active"
NOT_CONNECTED = "not_connected"
BREAKER_OPEN = "breaker_open"
DUPLICATE = "duplicate"
UNKNOWN_ORDER = "unknown_order"
ORDER_CLOSED = "order_closed"
TOO_MANY_ORDERS = "too_many_orders"
JOURNAL_FULL = "journal_full"
KILL_SWITCH = "kill_switch"
TAKE_OVER = "take_over"
ORPHANED = "orphaned"
# the venue
WOULD_TAKE = "would_take"
NOT_WHOLE = "not_whole"
SELF_MATCH = "self_match"
IOC_REST = "ioc_rest"
VENUE_CANCEL = "venue_cancel"
VENUE_RESTART = "venue_restart"
TAPE_END = "tape_end"

TEXTS: dict[str, str] = {
    ORDER_SIZE: "Order size limit exceeded",
    POSITION_LIMIT: "Position limit exceeded",
    PRICE_COLLAR: "Price outside the collar around the best bid and offer",
    MESSAGE_RATE: "Message rate limit exceeded",
    NO_PRICE: "No price of this instrument is known",
    STALE_PRICE: "The last known price of this instrument is too old",
    NO_POSITION: "Positions are not known",
    UNKNOWN_INSTRUMENT: "Instrument not known or not tradable",
    NOT_POSITIVE: "Price and quantity must be above zero",
    OVERFLOW: "The sum would pass 64 bits",
    NO_OMSD: "No order manager is attached",
    NOT_ATTACHED: "The sender has not attached with the newest token",
    NO_APPROVAL: "Order carries no approval of riskd",
    FORGED_APPROVAL: "Approval was not made by riskd for this order",
    APPROVAL_USED: "Approval was used before, or is older than one that was",
    STALE_TOKEN: "Fencing token is older than the newest one known",
    NOT_FENCED: "Fencing token has not been claimed here yet",
    WRONG_LINK: "Fencing token was claimed over another connection",
    FORGED_CLAIM: "Claim of a fencing token was not made by a process of this site for this connection",
    BEING_WRITTEN: "Fencing token is being written to disk",
    NOT_ACTIVE: "Not the active member of its group",
    NOT_CONNECTED: "No route to the venue",
    BREAKER_OPEN: "Not sent: the next hop has left orders unanswered, and its circuit breaker is open",
    DUPLICATE: "Order id has been used before",
    UNKNOWN_ORDER: "No such order",
    ORDER_CLOSED: "Order has ended already",
    TOO_MANY_ORDERS: "Too many working orders",
    JOURNAL_FULL: "Journal cannot be written; no new orders are taken",
    KILL_SWITCH: "The site's kill switch is set; no new orders are taken, cancels pass",
    TAKE_OVER: "Cancelled by a new leader taking over",
    ORPHANED: "Cancelled: no valid order manager",
    WOULD_TAKE: "Post-only order would take liquidity",
    NOT_WHOLE: "Price times quantity is not whole in 1e-8 of the quote currency",
    SELF_MATCH: "Would trade with an own order",
    IOC_REST: "Rest of an immediate-or-cancel order",
    VENUE_CANCEL: "Cancelled by the venue",
    VENUE_RESTART: "Cancelled: the venue was restarted",
    TAPE_END: "Cancelled: the tape has ended",
}

ENDED = frozenset({UNKNOWN_ORDER, ORDER_CLOSED})
"""Of a cancel that was refused: there is nothing left to cancel."""


def text(code: str) -> str:
    """The sentence for a code; the code itself where it is somebody else's."""
    return TEXTS.get(code, code)
