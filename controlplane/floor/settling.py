"""Before any host of a floor starts: is the store's incarnation (incarnation.py) above all that the keepers
of this site folder have seen? What is damaged is named, and keeps no floor from coming up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from controlplane import backup, model, store
from controlplane.errors import Refused
from controlplane.floor import incarnation
from controlplane.floor.folders import Folders
from controlplane.host import files
from controlplane.model import bounds, records

T = TypeVar("T")

REASON_MAX = 200
"""Characters of why a record does not decode: the reason may quote the record."""


async def settle(
    client: store.Store, keys: store.Keys, folders: Folders, note: Callable[[str], None]
) -> None:
    """Raise the store's incarnation where it went back. A record that does not decode is named and left
    out: it keeps no floor from coming up, and an incarnation that is none is replaced.

    Raises:
        Refused: a backup was put back in part only, and a part of a site is not started.
    """
    if restoring := await backup.half_way(client, keys):
        raise Refused(restoring)
    found = await client.get(keys.incarnation)
    decode = records.decode_incarnation
    stored = decoded(keys.incarnation, found.value, decode, note) if found else None
    epochs = {}
    for key, entry in (await client.range(keys.groups)).entries.items():
        group, _, leaf = key.removeprefix(keys.groups).partition("/")
        record = decoded(key, entry.value, _epoch_record, note) if leaf == "epoch" else None
        if record is not None:
            epochs[group] = (record.incarnation, record.epoch)
    disks = keeper_disks(folders)
    decision = incarnation.decide(stored, epochs, disks, time.time_ns() // 1_000_000)
    if not decision.reason:
        return
    written = await client.put(
        keys.incarnation, str(decision.incarnation).encode(), expect=found.revision if found else 0
    )
    if isinstance(written, store.Lost):
        return  # confirmed meanwhile by an operator, who has seen something newer than we have
    for disk in disks:
        if disk.damaged:
            heal_keeper_disk(folders.host(disk.host) / "keeper.json", decision.incarnation, note)
    if found is not None:
        note(
            f"incarnation of the store raised from {'what is none' if stored is None else stored} to "
            f"{decision.incarnation}: {decision.reason}"
        )


def heal_keeper_disk(path: Path, raised: int, note: Callable[[str], None]) -> None:
    """Every token that a keeper can have seen is below the incarnation that has just been raised: that
    is all its file has to say. A disk that does not take it leaves the rest to the keeper."""
    try:
        aside = files.set_aside(path)
        content = json.dumps({"incarnation": raised, "floors": {}}).encode()
        files.replace(path, content, files.Durability.POWER)
    except OSError as exc:
        note(f"{path}: damaged, and cannot be replaced: {exc}")
    else:
        note(f"{path}: damaged; set aside as {aside.name} and written anew")


def decoded(key: str, value: bytes, decode: Callable[[bytes], T], note: Callable[[str], None]) -> T | None:
    """None, said by name, for what does not decode."""
    try:
        return decode(value)
    except (msgspec.DecodeError, ValueError) as exc:
        note(f"{key} in the store does not decode and is left out: {str(exc)[:REASON_MAX]}")
        return None


def _epoch_record(value: bytes) -> records.EpochRecord:
    return model.decode(records.EpochRecord, value)


class _KeeperFile(msgspec.Struct):
    """hosts/HOST/keeper.json (agents/keeper/seen_tokens.py), the part that is read here."""

    incarnation: bounds.Incarnation = 0
    floors: dict[bounds.Name, records.EpochRecord] = {}


def keeper_disks(folders: Folders) -> list[incarnation.KeeperDisk]:
    """hosts/*/keeper.json, as agents/keeper/seen_tokens.py writes it; `damaged`: one that does not decode."""
    disks = []
    for path in sorted(folders.hosts.glob("*/keeper.json")):
        host = path.parent.name
        try:
            found = model.decode(_KeeperFile, path.read_bytes())
        except (OSError, msgspec.DecodeError):
            disks.append(incarnation.KeeperDisk(host, 0, {}, damaged=True))
            continue
        tokens = {group: (token.incarnation, token.epoch) for group, token in found.floors.items()}
        disks.append(incarnation.KeeperDisk(host, found.incarnation, tokens))
    return disks
