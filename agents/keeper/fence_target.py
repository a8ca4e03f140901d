"""What a leader has to fence or serve (R11): a group's token, leader and endpoints, out of the records of the
group and its registrations. Where those may come from after a take: shown.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.model import Token, records
from controlplane.model.records import Registration
from controlplane.store import Entry, Keys
from hftd.shm import fence_file

T = TypeVar("T")


def target_of(
    group: Mapping[str, Entry], registrations: Mapping[str, Entry], keys: Keys, service: str
) -> fence_file.Target | None:
    """None before the group's first take.

    Raises:
        InvalidInput: a record does not decode. Of an epoch that does not, the leader record tells as well:
            one take writes both.
    """
    leader = _record(group, keys.leader(service), records.LeaderRecord)
    epoch: records.EpochRecord | records.LeaderRecord | None
    try:
        epoch = _record(group, keys.epoch(service), records.EpochRecord)
    except InvalidInput:
        if leader is None:
            raise
        epoch = leader
    if epoch is None:
        return None
    holder = leader.holder if leader is not None else None
    found = (
        _record(registrations, keys.registration(service, holder.instance), Registration) if holder else None
    )
    endpoints = dict(found.endpoints) if found is not None else {}
    return fence_file.Target(Token(epoch.incarnation, service, epoch.epoch), holder, endpoints)


def _record(entries: Mapping[str, Entry], key: str, kind: type[T]) -> T | None:
    entry = entries.get(key)
    if entry is None:
        return None
    try:
        return model.decode(kind, entry.value)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"{key}: expected a {kind.__name__}: {exc}") from exc
