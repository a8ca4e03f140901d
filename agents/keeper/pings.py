"""The datagrams between keepers, and who may have written one: `seal` and `open_sealed`. Pure.

    16 bytes of keyed BLAKE2b (RFC 7693) over the body, then the body: a msgpack array
    ["ping", site, host that asks, host asked, sent ns, nonce, [process asked for]]
    ["pong", site, host asked, host that asks, sent ns, nonce, [process that passes]]

A pong repeats its ping's fields and names some of the processes that were asked for, so that it is never
larger: nobody can have a keeper send more than was sent to it. The key comes from the site's secret
(controlplane/host/secret.py). Nothing is encrypted: which processes pass is no secret.

A replayed ping is answered again. That is harmless, and bounded by what the replayer sends: the answer is no
larger, goes only to the address that the asker's agent announced, and counts nowhere, as its question is not
outstanding there. A replayed pong is refused for the same reason.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

import msgspec
from msgspec import Meta

from controlplane.errors import InvalidInput
from controlplane.model import Process

MAC_BYTES = 16
NONCE_BYTES = 8

ASKED_MAX = 16
"""Processes of one ping: with usual names it fits the 1,500 bytes of an Ethernet frame."""

DATAGRAM_BYTES_MAX = 4096
"""In and out. A ping with ASKED_MAX of the longest names and a site and hosts of usual length is below it."""

NAME_BYTES_MAX = 64
"""Of an instance, as in its lease page; longer than any boot id."""

Name = Annotated[str, Meta(max_length=NAME_BYTES_MAX)]
Host = Annotated[str, Meta(max_length=256)]
Nonce = Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
Pid = Annotated[int, Meta(gt=0, lt=1 << 31)]
Ns = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Named = tuple[Name, Name, Pid, Ns]
"""A process: instance, boot id, pid, start time."""


class Ping(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    site: Host
    host: Host
    """That asks."""
    to: Host
    """Another keeper that got the port since stays silent."""
    sent_ns: Ns
    """The asker's clock; echoed."""
    nonce: Nonce
    """Of this question alone; echoed."""
    asked: Annotated[list[Named], Meta(max_length=ASKED_MAX)]


class Pong(msgspec.Struct, array_like=True, frozen=True, tag="pong"):
    site: Host
    host: Host
    """That answers."""
    to: Host
    sent_ns: Ns
    nonce: Nonce
    fit: Annotated[list[Named], Meta(max_length=ASKED_MAX)]
    """Of those asked for: running, with a fresh heartbeat, ready."""


class NotAuthentic(Exception):
    """Its writer does not have the key."""


_decoder: msgspec.msgpack.Decoder[Ping | Pong] = msgspec.msgpack.Decoder(Ping | Pong)
_encoder = msgspec.msgpack.Encoder()


def seal(key: bytes, message: Ping | Pong) -> bytes:
    body = _encoder.encode(message)
    return _mac(key, body) + body


def open_sealed(key: bytes, data: bytes) -> Ping | Pong:
    """Raises InvalidInput: not a message of ours by its size or fields; NotAuthentic."""
    if not MAC_BYTES < len(data) <= DATAGRAM_BYTES_MAX:
        raise InvalidInput(f"a datagram of {len(data)} bytes")
    body = data[MAC_BYTES:]
    if not hmac.compare_digest(_mac(key, body), data[:MAC_BYTES]):
        raise NotAuthentic
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"a datagram: {exc}") from exc


def named(process: Process) -> Named | None:
    """As a datagram names it; None for what no process of ours can be (records come from the store)."""
    name, boot_id = process.instance, process.boot_id
    fits = (
        0 < len(name.encode(errors="replace")) <= NAME_BYTES_MAX
        and 0 < len(boot_id.encode(errors="replace")) <= NAME_BYTES_MAX
        and 0 < process.pid < 1 << 31
        and 0 <= process.start_time < 1 << 63
    )
    return (name, boot_id, process.pid, process.start_time) if fits else None


def _mac(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=MAC_BYTES).digest()
