"""HTTP/1.1 for every process of the control plane. `server` serves an ASGI application on TCP and unix
sockets within `limits`; `answers` has the responses and the one shape of errors; `client` asks another host's
agent; `unix` is the light client of hftctl. Nothing is imported here: hftctl must not pay for the server.
"""

__all__ = ["answers", "client", "limits", "peer", "server", "unix"]
