"""ZeroMQ patterns with the floor's bounds: one frame a message, linger 0, explicit high-water marks, one
context a process.

Others use `publish` (PUB and SUB), `pipeline` (PUSH and PULL) and `link` (DEALER and ROUTER); `socket` keeps
what is bound findable. Who may send
what over which is docs/protocol.md.
"""

from hftd.bus import link, pipeline, publish, socket

__all__ = [
    "link",
    "pipeline",
    "publish",
    "socket",
]
