"""What crosses a socket: market.py (fixed records), orders.py and control.py (msgpack arrays), codec.py (the
envelope).

docs/protocol.md is the prose.
"""

from hftd.wire import codec as codec
