"""Pings between keepers: which host's keeper answers now, and which of its processes it calls passing (R9).

One small UDP question to every peer each 100 ms, one answer. An answer counts from the SEND time of its
question, so a late one is old on arrival. Nothing here decides: a lost ping only means that a hand-over names
nobody and the standbys race.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import cast

import msgspec

from controlplane.clock import Clock
from controlplane.host import log
from controlplane.model import Process

FIT_MAX = 32
"""Processes in an answer: it stays under 4 KiB, far below what UDP carries."""

Address = tuple[str, int]


class Ping(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    site: str
    to: str
    """Host: another keeper that got the port since stays silent."""
    sent_ns: int
    """The asker's clock; echoed."""
    nonce: str
    """The asker's own; an answer to an earlier life of it does not count."""


class Pong(msgspec.Struct, array_like=True, frozen=True, tag="pong"):
    site: str
    host: str
    sent_ns: int
    nonce: str
    fit: list[Process]
    """Running, with a fresh heartbeat, ready."""


_decoder: msgspec.msgpack.Decoder[Ping | Pong] = msgspec.msgpack.Decoder(Ping | Pong)
_encoder = msgspec.msgpack.Encoder()


class Peers(asyncio.DatagramProtocol):
    def __init__(
        self, site: str, host: str, nonce: str, clock: Clock, fit: Callable[[], Iterable[Process]]
    ) -> None:
        self.site = site
        self.host = host
        self.undecodable = 0
        self._nonce = nonce
        self._clock = clock
        self._fit = fit
        self._addresses: dict[str, Address] = {}
        self._answers: dict[str, tuple[int, frozenset[Process]]] = {}
        self._transport: asyncio.DatagramTransport | None = None

    async def open(self, address: str) -> None:
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=(address, 0))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def bound(self) -> bool:
        return self._transport is not None

    @property
    def address(self) -> str:
        """host:port on which this keeper answers."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return f"{host}:{port}"

    def meet(self, addresses: Mapping[str, str]) -> None:
        """Peers by host, as their agents announce them. One that is not announced any more stays: its agent
        may be gone, its keeper not.
        """
        for host, address in addresses.items():
            name, _, port = address.rpartition(":")
            if host != self.host and name and port.isdecimal():
                self._addresses[host] = (name, int(port))

    def ask(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for host, address in self._addresses.items():
            self._transport.sendto(
                _encoder.encode(Ping(self.site, host, self._clock.boot_ns(), self._nonce)), address
            )

    def passing(self, now_ns: int, fresh_ns: int) -> frozenset[Process]:
        """Processes on other hosts that may be named successor now."""
        return frozenset(
            process
            for sent_ns, fit in self._answers.values()
            if now_ns - sent_ns <= fresh_ns
            for process in fit
        )

    # --- asyncio calls these --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        try:
            message = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.undecodable += 1
            return
        if message.site != self.site:
            return
        if isinstance(message, Ping):
            if message.to == self.host and self._transport is not None and not self._transport.is_closing():
                fit = list(self._fit())[:FIT_MAX]
                self._transport.sendto(
                    _encoder.encode(Pong(self.site, self.host, message.sent_ns, message.nonce, fit)), addr
                )
        elif (
            message.nonce == self._nonce
            and message.sent_ns >= self._answers.get(message.host, (0, frozenset()))[0]
        ):
            self._answers[message.host] = (message.sent_ns, frozenset(message.fit))

    def error_received(self, exc: Exception) -> None:
        # No process listens on a peer's port now; its answers grow old by themselves.
        log.debug("peers.unreachable", reason=str(exc))
