"""What Consul's checks ask, answered: a port that says 200 to everything, while it is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from controlplane.floor import consul


def free_ports(count: int) -> list[int]:
    """Of loopback, below those that the kernel gives to anybody: free now, and still so when it is bound."""
    return list(consul.free_ports([str(n) for n in range(count)], {}).values())


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK"


@contextlib.asynccontextmanager
async def answered(port: int) -> AsyncIterator[None]:
    """On loopback, until left; several at one port share it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, reuse_port=True)
    try:
        yield
    finally:
        server.close()
