"""How far this host's clock is off: by the kernel, by chrony, or by asking an NTP server.

The kernel's own estimate costs a system call and knows nothing that ntpd or chronyd has not told it; chrony's
is what chronyd knows; an NTP server (a peer host may be one) is asked by one packet (SNTP, RFC 4330), whose
round trip bounds the error.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import time
from dataclasses import dataclass

from agents.checks.blocking import Calls
from agents.checks.script import PATH, Scripts
from agents.checks.target import Result, Target, cut
from controlplane.errors import InvalidInput
from controlplane.model.checks import ClockCheck

NTP = "ntp://"
NTP_PORT = 123
_EPOCH_S = 2_208_988_800
"""From 1900, where NTP's time begins, to 1970."""
_PACKET = struct.Struct("!BBbb11I")
_STA_UNSYNC, _STA_NANO = 0x0040, 0x2000
_TIME_ERROR = 5
CHRONYC = ("/usr/bin/env", "chronyc", "-c", "-n", "tracking")


@dataclass(frozen=True, slots=True)
class Offset:
    offset_s: float
    """By how much this clock is ahead (or behind, where it is not known which way: positive)."""
    error_s: float
    """How far off that may be."""
    source: str
    synchronised: bool = True


async def probe(check: ClockCheck, target: Target, key: str, calls: Calls, scripts: Scripts) -> Result:
    """Raises OSError, and InvalidInput: what came is no time."""
    if check.source == "kernel":
        found = kernel()
    elif check.source == "chrony":
        ended = await scripts.run(key, CHRONYC, {"PATH": PATH, "LC_ALL": "C"})
        if ended.status:
            return Result("critical", f"chronyc: {cut(ended.output) or f'exit status {ended.status}'}")
        found = tracking(ended.output.decode("utf-8", "replace"))
    else:
        found = await ask(target.filled(check.source), key, calls)
    return judge(check, found)


def judge(check: ClockCheck, found: Offset) -> Result:
    """What an offset means. Pure."""
    offset_ms = found.offset_s * 1e3
    said = f"{offset_ms:+.3f} ms by {found.source} (error up to {found.error_s * 1e3:.3f} ms)"
    if not found.synchronised:
        return Result("critical", f"the clock is not synchronised; {said}")
    if abs(offset_ms) > check.critical_ms:
        return Result("critical", f"{said}, wanted within {check.critical_ms:g} ms")
    if check.warning_ms and abs(offset_ms) > check.warning_ms:
        return Result("warning", f"{said}, wanted within {check.warning_ms:g} ms")
    return Result("passing", said)


# --- the kernel ---------------------------------------------------------------------------------------------


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2)."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time_s", ctypes.c_long),
        ("time_us", ctypes.c_long),
        ("rest", ctypes.c_long * 32),  # more than any kernel writes
    )


def kernel() -> Offset:
    """Reads, and sets nothing. Raises OSError."""
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        raise OSError(ctypes.get_errno(), f"adjtimex: {os.strerror(ctypes.get_errno())}")
    return of_kernel(state, timex.status, timex.offset, timex.esterror, timex.maxerror)


def of_kernel(state: int, status: int, offset: int, esterror_us: int, maxerror_us: int) -> Offset:
    """From what adjtimex says. chronyd steers without the kernel's offset and tells it its estimated error,
    so the larger of the two is the estimate. Pure.
    """
    offset_s = offset / (1e9 if status & _STA_NANO else 1e6)
    estimate_s = max(abs(offset_s), esterror_us / 1e6)
    good = state != _TIME_ERROR and not status & _STA_UNSYNC
    return Offset(-estimate_s if offset_s > 0 else estimate_s, maxerror_us / 1e6, "the kernel", good)


# --- chrony -------------------------------------------------------------------------------------------------


def tracking(line: str) -> Offset:
    """From `chronyc -c tracking`. Raises InvalidInput. Pure."""
    fields = line.strip().split(",")
    if len(fields) != 14:
        raise InvalidInput(f"chronyc tracking: found {len(fields)} fields, wanted 14: {line[:100]!r}")
    try:
        system_s, delay_s, dispersion_s = float(fields[4]), float(fields[10]), float(fields[11])
    except ValueError as exc:
        raise InvalidInput(f"chronyc tracking: {exc}") from exc
    good = fields[13] != "Not synchronised"
    # chrony's number is how far the clock is slow of NTP time when positive, after `chronyc -c`.
    return Offset(-system_s, delay_s / 2 + dispersion_s, f"chrony ({fields[1] or fields[0]})", good)


# --- an NTP server ------------------------------------------------------------------------------------------


async def ask(source: str, key: str, calls: Calls) -> Offset:
    """Waits for ever for a server that does not answer. Raises OSError, InvalidInput."""
    host, _, port = source.removeprefix(NTP).partition(":")
    ip = await calls.run(key, lambda: _look_up(host))
    loop = asyncio.get_running_loop()
    nonce = int.from_bytes(os.urandom(8))
    transport, answer = await loop.create_datagram_endpoint(
        lambda: _Answer(nonce), remote_addr=(ip, int(port or NTP_PORT))
    )
    try:
        sent_s, sent_mono_s = time.time(), time.monotonic()
        transport.sendto(request(nonce))
        packet, came_mono_s = await answer.packet
    finally:
        transport.close()
    # The way back by the monotonic clock: a wall clock that is set meanwhile is no offset of it.
    return offset(packet, sent_s, sent_s + (came_mono_s - sent_mono_s), source)


def request(nonce: int) -> bytes:
    """Version 4, client; the transmit time is a random number that the answer has to repeat."""
    return _PACKET.pack(0x23, 0, 0, 0, *[0] * 9, nonce >> 32, nonce & 0xFFFFFFFF)


def offset(packet: bytes, sent_s: float, came_s: float, source: str) -> Offset:
    """From a server's answer. Raises InvalidInput: it is none, or the server knows no time. Pure."""
    if len(packet) < _PACKET.size:
        raise InvalidInput(f"{source}: an answer of {len(packet)} bytes")
    first, stratum, _, _, _, _, _, *words = _PACKET.unpack_from(packet)
    if first & 7 != 4:
        raise InvalidInput(f"{source}: no answer of a server (mode {first & 7})")
    if stratum == 0 or stratum > 15 or first >> 6 == 3:
        raise InvalidInput(f"{source}: the server is not synchronised (stratum {stratum}, leap {first >> 6})")
    received_s, answered_s = (_seconds(*words[at : at + 2]) for at in (4, 6))
    there_s, back_s = received_s - sent_s, answered_s - came_s
    round_trip_s = max(0.0, (came_s - sent_s) - (answered_s - received_s))
    return Offset(-(there_s + back_s) / 2, round_trip_s / 2, source)


def _seconds(whole: int, fraction: int) -> float:
    """UNIX time; a number that looks as if from before 1968 is of the era that begins in 2036."""
    era_s = 1 << 32 if whole < 1 << 31 else 0
    return whole + era_s - _EPOCH_S + fraction / (1 << 32)


class _Answer(asyncio.DatagramProtocol):
    """The first packet that repeats the nonce; others are somebody else's."""

    def __init__(self, nonce: int) -> None:
        self.packet: asyncio.Future[tuple[bytes, float]] = asyncio.get_running_loop().create_future()
        self._nonce = nonce.to_bytes(8)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data[24:32] == self._nonce and not self.packet.done():
            self.packet.set_result((data, time.monotonic()))

    def error_received(self, exc: Exception) -> None:
        if not self.packet.done():
            self.packet.set_exception(exc)


def _look_up(host: str) -> str:
    import socket

    found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])
