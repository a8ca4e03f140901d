"""Take a backup: every key of the site that outlives its writers, as the store had them at one moment.

On etcd all pages of the list are of one revision; on Consul it is one recursive read. What hangs on a lease
(registrations, host records, the controller's) is not in it: it is true only while its writer lives. Nor is
Consul's catalogue. What no store could take back (a key that is not text, a value over the port's limit) was
not written by hftctl, is left out and named.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import msgspec

from controlplane import model
from controlplane.backup import file
from controlplane.errors import Compacted, HftctlError, InvalidInput, Refused
from controlplane.model import records
from controlplane.store import Entry, Keys, Put, Snapshot, Store, limits

LIST_S = 60.0
"""For a list of all keys, or a page of it: 50,000 of them are 15 MB on Consul. The client's own deadline is
for what is small."""
TRIES = 3
"""Of a list whose revision was compacted away between two pages."""
REPLACEMENT = "�"
"""What a byte that is no UTF-8 is shown as (store/etcd/calls.py)."""


@dataclass(frozen=True, slots=True)
class Taken:
    path: Path
    header: file.Header
    records: int
    left_out: tuple[str, ...]
    """Keys, each with why."""


def leased(keys: Keys, key: str) -> bool:
    """By its name: it hangs on a lease of its writer, and is in no backup."""
    return key.startswith((keys.services, keys.hosts)) or key == keys.controller()


async def take(store: Store, keys: Keys, path: Path, *, actor: str) -> Taken:
    """Write the site's keys to `path`, whole or not at all.

    `store` is the caller's own client for this: its deadline is set to that of a long list.

    Raises:
        Refused: the site is not there, or was only put back in part. OSError: the file. Unavailable, Denied:
        the store.
    """
    health = await store.health()
    snapshot = await _listed(store, keys)
    kept, left_out = _kept(keys, snapshot.entries)
    if keys.restoring in snapshot.entries:
        raise Refused(
            f'site "{keys.site}": a restore of it has not come to its end: what is there now is a part of a '
            "site and no backup; hftctl restore FILE again"
        )
    if not kept:
        raise Refused(f'site "{keys.site}": this store has nothing of it (another --site, another store?)')
    now_ns = time.time_ns()
    header = file.Header(
        site=keys.site,
        taken_ns=now_ns,
        taken_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_ns / 1e9)),
        by=actor,
        host=socket.gethostname(),
        floor=floor_of(snapshot.entries.get(keys.site_record)),
        incarnation=incarnation_of(snapshot.entries.get(keys.incarnation)) or 0,
        store_kind=health.kind,
        store_version=health.version,
        revision=snapshot.revision,
    )
    # In a thread: the elected controller has a lease to keep while a slow disk syncs.
    await anyio.to_thread.run_sync(_write, path, header, kept)
    return Taken(path, header, len(kept), left_out)


def _write(path: Path, header: file.Header, kept: Mapping[str, Entry]) -> None:
    with file.writing(path, header) as out:
        for key in sorted(kept):
            out.add(key, kept[key].value)


async def _listed(store: Store, keys: Keys) -> Snapshot:
    store.try_within(LIST_S)
    for _ in range(TRIES - 1):
        try:
            return await store.range(keys.root)
        except Compacted:
            continue
    return await store.range(keys.root)


def _kept(keys: Keys, entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """The entries of the backup by their names in it, and what is left out."""
    kept, left_out = {}, []
    for key, entry in entries.items():
        if entry.leased or leased(keys, key) or key == keys.restoring:
            continue
        try:
            if REPLACEMENT in key:
                raise InvalidInput(f"key {key!r}: not text")
            limits.check([], [Put(key, entry.value)])
        except HftctlError as exc:
            left_out.append(str(exc))
        else:
            kept[key.removeprefix(keys.root)] = entry
    return kept, tuple(left_out)


def floor_of(entry: Entry | None) -> str:
    """Id of the floor that a `site` record names; empty: none."""
    if entry is None:
        return ""
    try:
        return model.decode(records.SiteRecord, entry.value).floor
    except msgspec.DecodeError:
        return ""


def incarnation_of(entry: Entry | None) -> int | None:
    if entry is None:
        return None
    try:
        return records.decode_incarnation(entry.value)
    except (msgspec.DecodeError, ValueError):
        return None
