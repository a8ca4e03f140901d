"""Pings between keepers: which host's keeper answers now, and which of its processes it calls passing (R9).

One small UDP question to every peer each 100 ms, one answer; pings.py has the datagrams. An answer counts
from the SEND time of its question, so a late one is old on arrival, and only while that question is
outstanding: once, from the peer's own address. Nothing here decides: a lost ping only means that a hand-over
names nobody and the standbys race.

What arrives serves many peers from one socket, so the rule for it: what is not a message of ours is counted
in `undecodable`; what is not an announced peer's, or answers nothing, by its kind in `unauthenticated`; it is
dropped, and nothing is logged for it. An address that is none of a socket is refused by name, counted and
logged once; the last good one stays.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from agents.keeper import pings
from controlplane.clock import Clock
from controlplane.errors import InvalidInput
from controlplane.host import log
from controlplane.model import Process

PEERS_MAX = 256
"""Hosts of a site, far above any; more are refused by name."""

PARTS_MAX = 16
"""Pings to one peer at a time: standbys of 256 groups on one host."""

OUTSTANDING_NS = 1_000_000_000
"""An answer later than this is one that nobody waits for; what counts is far younger (ping_fresh_s)."""

KINDS = ("forged", "unannounced", "unasked", "no_key")
"""Why a datagram is not believed: no valid MAC; a valid one, but not from the address announced for that host
(a keeper that has just restarted, until its host record has come); a second, late or replayed answer; this
keeper has no key."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Question:
    host: str
    address: Address
    sent_ns: int
    asked: tuple[pings.Named, ...]


class Peers(asyncio.DatagramProtocol):
    def __init__(
        self,
        site: str,
        host: str,
        clock: Clock,
        fit: Callable[[], Iterable[Process]],
        asked: Callable[[], Mapping[str, Sequence[Process]]],
    ) -> None:
        """`fit`: processes here that peers may name; `asked`: by host, those of which this keeper has to
        know.
        """
        self.site = site
        self.host = host
        self.key: bytes | None = None
        """32 bytes; None: no pings are sent or answered."""
        self.undecodable = 0
        self.unauthenticated = dict.fromkeys(KINDS, 0)
        self._clock = clock
        self._fit = fit
        self._asked = asked
        self._addresses: dict[str, Address] = {}
        self._refused: dict[str, str] = {}
        """Host -> what was announced for it and is not an address."""
        self._outstanding: dict[bytes, Question] = {}
        self._heard: dict[pings.Named, tuple[int, bool]] = {}
        """Process -> when it was last asked for and answered, and whether it passes."""
        self._answers: dict[str, int] = {}
        """Host -> send time of its last answer's question."""
        self._transport: asyncio.DatagramTransport | None = None
        self._ip_version = 4
        self._full = False
        """The kernel takes no more now (asyncio's 64 KiB wait already): a ping is lost, as on the wire."""

    def __repr__(self) -> str:
        return (
            f"<Peers of {self.host}: {', '.join(self._addresses) or 'none'}{'' if self.key else ', no key'}>"
        )

    async def open(self, address: str) -> None:
        """Raises InvalidInput (not a literal address), OSError."""
        try:
            self._ip_version = ipaddress.ip_address(address).version
        except ValueError as exc:
            raise InvalidInput(f"keeper address {address!r}: expected an IPv4 or IPv6 address") from exc
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=(address, 0))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    @property
    def bound(self) -> bool:
        return self._transport is not None

    @property
    def address(self) -> str:
        """host:port on which this keeper answers; [host]:port of IPv6."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return f"{host}:{port}" if self._ip_version == 4 else f"[{host}]:{port}"

    def meet(self, addresses: Mapping[str, str]) -> None:
        """Peers by host, as their agents announce them. One that is not announced any more stays: its agent
        may be gone, its keeper not.
        """
        for host, announced in addresses.items():
            if host == self.host or not announced:
                continue
            try:
                address = parse_address(announced, self._ip_version)
                if host not in self._addresses and len(self._addresses) >= PEERS_MAX:
                    raise InvalidInput(f"more than {PEERS_MAX} hosts")
            except InvalidInput as exc:
                self._refuse(host, announced, str(exc))
            else:
                self._addresses[host] = address
                self._refused.pop(host, None)

    def _refuse(self, host: str, announced: str, reason: str) -> None:
        """Count and log it once: its agent writes its record again each second."""
        if self._refused.get(host) == announced[: 2 * ADDRESS_CHARS_MAX]:
            return
        if len(self._refused) < PEERS_MAX:
            self._refused[host] = announced[: 2 * ADDRESS_CHARS_MAX]
            kept = self._addresses.get(host)
            log.warning(
                "peer.address_refused",
                host=host[:ADDRESS_CHARS_MAX],
                reason=reason,
                kept=f"{kept[0]} port {kept[1]}" if kept else "no earlier one: it is not pinged",
            )
        self.undecodable += 1

    def ask(self) -> None:
        now_ns = self._clock.boot_ns()
        self._forget(now_ns)
        if self.key is None:
            return
        asked = self._asked()
        for host, address in self._addresses.items():
            for part in _parts(asked.get(host, ())):
                nonce = os.urandom(pings.NONCE_BYTES)
                self._outstanding[nonce] = Question(host, address, now_ns, part)
                ping = pings.Ping(self.site, self.host, host, now_ns, nonce, list(part))
                self._send(pings.seal(self.key, ping), address)

    def passing(self, now_ns: int, fresh_ns: int) -> frozenset[Process]:
        """Processes on other hosts that may be named successor now."""
        return frozenset(
            Process(*process)
            for process, (sent_ns, fit) in self._heard.items()
            if fit and 0 <= now_ns - sent_ns <= fresh_ns
        )

    def _forget(self, now_ns: int) -> None:
        """What is too old to count for anything, so that neither table grows."""
        before_ns = now_ns - OUTSTANDING_NS
        for nonce in [nonce for nonce, each in self._outstanding.items() if each.sent_ns < before_ns]:
            del self._outstanding[nonce]
        for process in [process for process, (sent_ns, _) in self._heard.items() if sent_ns < before_ns]:
            del self._heard[process]

    def _send(self, data: bytes, address: Address) -> None:
        transport = self._transport
        if (
            len(data) <= pings.DATAGRAM_BYTES_MAX
            and transport is not None
            and not transport.is_closing()
            and not self._full
        ):
            transport.sendto(data, address)

    # --- asyncio calls these --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if self.key is None:
            self.unauthenticated["no_key"] += 1
            return
        try:
            message = pings.open_sealed(self.key, data)
        except InvalidInput:
            self.undecodable += 1
            return
        except pings.NotAuthentic:
            self.unauthenticated["forged"] += 1
            return
        if message.site != self.site or message.to != self.host:
            self.unauthenticated["unannounced"] += 1  # meant for the keeper that had this port before
        elif self._addresses.get(message.host) != addr[:2]:
            self.unauthenticated["unannounced"] += 1
        elif isinstance(message, pings.Ping):
            self._answer(self.key, message)
        else:
            self._take(message)

    def _answer(self, key: bytes, ping: pings.Ping) -> None:
        fit = {pings.named(process) for process in self._fit()} if ping.asked else set()
        passing = [process for process in ping.asked if process in fit]
        pong = pings.Pong(self.site, self.host, ping.host, ping.sent_ns, ping.nonce, passing)
        self._send(pings.seal(key, pong), self._addresses[ping.host])

    def _take(self, pong: pings.Pong) -> None:
        question = self._outstanding.get(pong.nonce)
        now_ns = self._clock.boot_ns()
        if (
            question is None
            or (question.host, question.sent_ns) != (pong.host, pong.sent_ns)
            or question.address != self._addresses[pong.host]
            or not 0 <= now_ns - question.sent_ns <= OUTSTANDING_NS
        ):
            self.unauthenticated["unasked"] += 1
            return
        del self._outstanding[pong.nonce]
        self._answers[pong.host] = max(question.sent_ns, self._answers.get(pong.host, 0))
        fit = set(pong.fit)
        for process in question.asked:
            if question.sent_ns >= self._heard.get(process, (0, False))[0]:
                self._heard[process] = (question.sent_ns, process in fit)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def error_received(self, exc: Exception) -> None:
        # No process listens on a peer's port now; its answers grow old by themselves.
        log.debug("peers.unreachable", reason=str(exc))


ADDRESS_CHARS_MAX = 64


def parse_address(announced: str, ip_version: int = 4) -> Address:
    """IPv4:PORT or [IPv6]:PORT, literal: the loop may not wait for a name to be looked up, and what sendto
    does not take would close the socket for all peers.

    Raises:
        InvalidInput: it is something else, or of the other IP version than this keeper's socket.
    """
    host, _, port = announced.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        len(announced) <= ADDRESS_CHARS_MAX
        and port.isascii()
        and port.isdecimal()
        and 0 < int(port) < 1 << 16
    ):
        try:
            ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            pass
        else:
            one_host = not (ip.is_unspecified or ip.is_multicast or "%" in host)
            if (ip.version == 6) == bracketed and ip.version == ip_version and one_host:
                return str(ip), int(port)
    wanted = "IPv4:PORT" if ip_version == 4 else "[IPv6]:PORT"
    raise InvalidInput(
        f"keeper {announced[:ADDRESS_CHARS_MAX]!a}: expected {wanted} of one host, "
        "with a port of 1 to 65535; names are not looked up"
    )


def _parts(processes: Sequence[Process]) -> Iterator[tuple[pings.Named, ...]]:
    """At least one, so that a peer that has nothing to say for us is still known to answer."""
    named = [name for process in processes if (name := pings.named(process)) is not None]
    yield from itertools.islice(
        (tuple(named[at : at + pings.ASKED_MAX]) for at in range(0, max(1, len(named)), pings.ASKED_MAX)),
        PARTS_MAX,
    )
