"""What crosses a socket: schemas that only grow, and the one envelope. No clock and no socket in here.

Others use codec.py (the envelope, passing a message on), control.py (daemon and agent), orders.py,
requests.py (questions about market data), market.py, feed.py and tops.py (fixed records). docs/protocol.md is
the prose.
"""

from hftd.wire import codec

__all__ = [
    "codec",
    "control",
    "feed",
    "market",
    "orders",
    "requests",
    "tops",
]
