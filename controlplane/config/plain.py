"""Plain keys: one value of the site each, such as a feature flag; put, read, deleted, or put for a time.

The last writer wins. A key with a TTL stands under a lease of its own that nobody renews, so that the store
deletes it by itself: on etcd within the TTL, on Consul within twice that. What another client writes under
the same key is read as its JSON, else as its text.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import Any

import msgspec

from controlplane import model
from controlplane.config import documents, revisions
from controlplane.errors import HftctlError, InvalidInput, TooLarge, Unavailable
from controlplane.model.config import KILL_SWITCH, TYPES, VALUE_BYTES_MAX, PlainKey, fits, plain_key, type_of
from controlplane.store import Committed, Entry, Keys, Lease, Store

KEYS_MAX = 200
"""Of a site: each daemon has all of them in memory."""
TTL_S_MIN, TTL_S_MAX = 10.0, 24 * 3600.0
"""Consul's own least and most."""
TRIES = 3
"""Of one write whose answers are lost; each has the store client's own deadline."""
RACES_MAX = 100
"""Writes of the same key by others, each between one's own look and write."""
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_key(key: str) -> None:
    """Raises InvalidInput."""
    if not _KEY.fullmatch(key):
        wanted = "1 to 128 letters, digits, _, . and -, beginning with a letter, digit or _"
        raise InvalidInput(f"key {key[:60]!r}: wanted {wanted}")


def made(
    key: str,
    value: Any,
    type: str = "",
    *,
    ttl_s: float | None = None,
    actor: str = "",
    reason: str = "",
    set_ns: int = 0,
) -> PlainKey:
    """The record of a value. `type` empty: what the value looks like.

    Raises:
        InvalidInput: the key's name, the type, or a value that is not of it. TooLarge.
    """
    check_key(key)
    if type and type not in TYPES:
        raise InvalidInput(f"{key}: found the type {type[:60]!r}, wanted one of {', '.join(TYPES)}")
    wanted = "bool" if key == KILL_SWITCH else type or type_of(value)
    if value is None or not fits(value, wanted) or type not in ("", wanted):
        found = f"{documents.shown(value)}{f' as {type}' if type else ''}"
        raise InvalidInput(f"{key}: found {found}, wanted a value of type {wanted}")
    documents.encoded(value, key, VALUE_BYTES_MAX)
    if ttl_s is not None and not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
        raise InvalidInput(f"{key}: found a TTL of {ttl_s:g} s, wanted {TTL_S_MIN:g} to {TTL_S_MAX:g} s")
    if ttl_s is not None and key == KILL_SWITCH:
        raise InvalidInput(f"{key}: found a TTL, wanted none: trading would go on when nobody has decided it")
    return PlainKey(value, wanted, actor, reason, set_ns, ttl_s)


def read(entry: Entry, key: str) -> PlainKey:
    """Raises InvalidInput: what stands there is no value of its type."""
    try:
        return plain_key(entry.value, key)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise InvalidInput(f"{key}: what stands in the store is no value: {exc}") from exc


async def get(store: Store, keys: Keys, key: str) -> PlainKey | None:
    """None: it is not there. Raises InvalidInput, Unavailable."""
    check_key(key)
    entry = await store.get(keys.plain_key(key))
    return read(entry, key) if entry is not None else None


async def put(
    store: Store, keys: Keys, key: str, record: PlainKey, known: Collection[str] = ()
) -> PlainKey | None:
    """Put it in place of whatever stands there; what stood there before, None also where that was no value.
    `known`: the site's keys, for their bound, which holds up no kill switch.

    Raises:
        TooLarge: there are as many keys as there may be. Unavailable: with `ambiguous` it may stand.
    """
    check_key(key)
    if key not in known and len(known) >= KEYS_MAX and key != KILL_SWITCH:
        raise TooLarge(f"{key}: found {len(known)} plain keys, wanted at most {KEYS_MAX}: delete one first")
    lease = await store.lease(record.ttl_s) if record.ttl_s is not None else None
    try:
        return await _write(store, keys.plain_key(key), key, model.encode(record), lease)
    except Unavailable as exc:
        if lease is not None and not exc.ambiguous:
            with contextlib.suppress(HftctlError):
                await lease.revoke()
        raise


async def delete(store: Store, keys: Keys, key: str) -> PlainKey | None:
    """What stood there. Raises Unavailable: with `ambiguous` it may be gone."""
    check_key(key)
    return await _write(store, keys.plain_key(key), key, None, None)


async def _write(
    store: Store, at: str, key: str, value: bytes | None, lease: Lease | None
) -> PlainKey | None:
    """Each try compares what it read, so that a write whose answer was lost cannot come after a later one."""
    failed: Unavailable | None = None
    lost_answers = 0
    entry = await store.get(at)
    for _ in range(RACES_MAX):
        if entry is None and value is None:
            return None
        revision = entry.revision if entry is not None else 0
        try:
            if value is None:
                outcome = await store.delete(at, expect=revision)
            else:
                outcome = await store.put(at, value, expect=revision, lease=lease)
            if isinstance(outcome, Committed):
                return _known(entry, key)
        except Unavailable as exc:
            if not exc.ambiguous and failed is None:
                raise
            failed, lost_answers = failed or exc, lost_answers + 1
        now = await revisions.after(lambda: store.get(at), failed)
        if failed is not None and (now.revision if now is not None else 0) != revision:
            return _known(entry, key)  # ours, or another's after it
        if lost_answers == TRIES:
            break
        entry = now
    message = f"the write has no answer: {failed}" if failed else f"it changed {RACES_MAX} times"
    raise Unavailable(f"{key}: {message}; ask again", ambiguous=failed is not None)


def _known(entry: Entry | None, key: str) -> PlainKey | None:
    try:
        return read(entry, key) if entry is not None else None
    except InvalidInput:
        return None
