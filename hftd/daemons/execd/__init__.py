"""execd: the last hop we own, between the order manager and the venue. daemon.py wires it, leads and fences:
desk.py judges what order managers send, attempts.py counts what nobody may send, venue.py is the link to the
venue. Others use `build`.
"""

from hftd.daemons.execd.daemon import build

__all__ = [
    "build",
]
