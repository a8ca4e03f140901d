"""Connections of checks: names are looked up on a thread of the check's own, all else is in the loop."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from agents.checks.blocking import Calls
from agents.checks.target import Result, Target
from controlplane.model.checks import TcpCheck

P = TypeVar("P", bound=asyncio.BaseProtocol)
UNIX = "unix:"


async def probe(check: TcpCheck, target: Target, key: str, calls: Calls) -> Result:
    """Raises OSError: nobody accepts there."""
    address = target.filled(check.address)
    transport, _ = await connect(address, asyncio.Protocol, key, calls)
    transport.abort()
    return Result("passing", f"{address} accepts connections")


async def connect(
    address: str,
    protocol: Callable[[], P],
    key: str,
    calls: Calls,
    tls: ssl.SSLContext | None = None,
) -> tuple[asyncio.Transport, P]:
    """To HOST:PORT, [IPV6]:PORT or unix:/PATH. Raises OSError."""
    loop = asyncio.get_running_loop()
    if address.startswith(UNIX):
        return await loop.create_unix_connection(protocol, address.removeprefix(UNIX))
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise OSError(f"{address}: no port to connect to")
    ip = host if _is_ip(host) else await calls.run(key, lambda: _look_up(host, int(port)))
    return await loop.create_connection(
        protocol, ip, int(port), ssl=tls, server_hostname=host if tls else None
    )


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _look_up(host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise OSError(f"{host}: {getattr(exc, 'strerror', None) or exc}") from exc
    # IPv4 first: what listens on localhost mostly listens there.
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])
