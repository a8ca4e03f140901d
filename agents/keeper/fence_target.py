"""What a leader has to fence or serve (R11): a group's token, leader and endpoints in a view of the store."""

from __future__ import annotations

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.leadership import transactions
from controlplane.model import Registration, Token
from controlplane.store.base import Snapshot
from controlplane.store.keys import Keys
from hftd.shm import fence_file


def target_of(snapshot: Snapshot, keys: Keys, service: str) -> fence_file.Target | None:
    """A group's token, leader and endpoints in this view; None before its first take. Raises InvalidInput."""
    group = transactions.group_of(snapshot, keys, service)
    if group.epoch is None:
        return None
    endpoints: dict[str, str] = {}
    entry = snapshot.entries.get(keys.registration(service, group.holder.instance)) if group.holder else None
    if entry is not None:
        try:
            endpoints = dict(model.decode(Registration, entry.value).endpoints)
        except msgspec.DecodeError as exc:
            raise InvalidInput(f"{entry.key}: expected a Registration: {exc}") from exc
    return fence_file.Target(
        Token(group.epoch.incarnation, service, group.epoch.epoch), group.holder, endpoints
    )
