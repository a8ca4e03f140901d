"""One GET over TCP as a patient client makes it, bounded in time and bytes: how the tests ask agents and the
controller. One request a connection, no redirects, no TLS. Over unix sockets they use hftctl's own
(controlplane/http/unix.py).
"""

from __future__ import annotations

import asyncio
import os
from urllib.parse import urlsplit

import h11

from controlplane.errors import Retryable
from controlplane.http.unix import Answer

ANSWER_BYTES_MAX = 16 << 20
"""A part of a log is 1 MiB; orders of a long day may be some megabytes. The agent holds it in memory."""
HEAD_BYTES_MAX = 64 << 10
READ_BYTES = 64 << 10


async def get(url: str, *, timeout_s: float, bytes_max: int = ANSWER_BYTES_MAX) -> Answer:
    """The answer, whatever its status; the whole exchange has `timeout_s`. Safe to cancel.

    Raises:
        Retryable: no connection, no whole answer in time, more than `bytes_max`, or not HTTP. Says which; the
            caller knows whom it asked.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _get(url, bytes_max)
    except TimeoutError as exc:
        raise Retryable(f"no answer within {timeout_s:g} s") from exc
    except OSError as exc:
        # asyncio's own text names the call; the error's says more. A name not resolved has a negative one.
        known = exc.errno is not None and exc.errno > 0
        raise Retryable(os.strerror(exc.errno or 0) if known else str(exc)) from exc
    except (h11.ProtocolError, ValueError) as exc:  # a URL that is none, too: it was read from the store
        raise Retryable(f"not HTTP: {exc}") from exc


async def _get(url: str, bytes_max: int) -> Answer:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is not an http URL")
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        connection = h11.Connection(h11.CLIENT, HEAD_BYTES_MAX)
        headers = [("Host", parts.netloc), ("Connection", "close")]
        head = connection.send(h11.Request(method="GET", target=target, headers=headers))
        end = connection.send(h11.EndOfMessage())
        writer.write((head or b"") + (end or b""))
        await writer.drain()
        return await _answer(connection, reader, bytes_max)
    finally:
        writer.transport.abort()


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader, bytes_max: int) -> Answer:
    http_status, headers, body = 0, dict[str, str](), bytearray()
    while True:
        match connection.next_event():
            case h11.NEED_DATA:
                connection.receive_data(await reader.read(READ_BYTES))
            case h11.Response() as response:
                http_status = response.status_code
                headers = {
                    name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers
                }
            case h11.Data() as part:
                body += part.data
                if len(body) > bytes_max:
                    raise Retryable(f"an answer of more than {bytes_max} bytes")
            case h11.EndOfMessage():
                return Answer(http_status, headers, bytes(body))
            case h11.InformationalResponse():
                pass
            case other:
                raise ValueError(f"the connection ended ({other!r})")
