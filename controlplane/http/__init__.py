"""HTTP/1.1 for every process of the control plane. `server` serves an ASGI application on TCP and unix
sockets within `limits`; `answers` has the responses and the one shape of errors; `peer` says who is at the
other end of a unix socket; `unix` is the light client of hftctl. Nothing is imported here: hftctl must not
pay for the server.
"""

__all__ = ["answers", "limits", "peer", "server", "unix"]
