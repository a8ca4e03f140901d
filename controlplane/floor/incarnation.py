"""The incarnation of a laptop floor's store: made once, raised when the store has gone back to before what a
keeper has on its disk (rule R19). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from controlplane.model import bounds


@dataclass(frozen=True, slots=True)
class KeeperDisk:
    """What one keeper remembers of the store."""

    host: str
    incarnation: int
    tokens: Mapping[str, tuple[int, int]]
    """Group -> (incarnation, epoch), the highest seen."""
    damaged: bool = False
    """It cannot be read: what the keeper had seen is not known."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    incarnation: int
    reason: str
    """Empty: the store's own stands."""


def decide(
    stored: int | None,
    epochs: Mapping[str, tuple[int, int]],
    disks: Iterable[KeeperDisk],
    now_ms: int,
) -> Incarnation:
    """`stored`: the store's incarnation, None in a new store; `epochs`: its epoch records.

    New = max(now, highest seen + 1): above every token that any daemon may have seen, so that none of the old
    ones is accepted again. One from the future was not made by us, wherever it stands, and raises nothing:
    it would stand above every later one.
    """
    if stored is not None and not bounds.believable(stored, now_ms):
        stored = None
    epochs = {group: rank for group, rank in epochs.items() if bounds.believable(rank[0], now_ms)}
    disks = [_believed(disk, now_ms) for disk in disks]
    highest = max(
        [
            stored or 0,
            *(d.incarnation for d in disks),
            *(rank[0] for d in disks for rank in d.tokens.values()),
        ],
        default=0,
    )
    new = max(now_ms, highest + 1)
    for disk in disks:
        if stored is not None and disk.damaged:
            return Incarnation(
                new,
                f"keeper {disk.host}'s seen tokens are damaged: whether the store went back is not known",
            )
        if stored is not None and disk.incarnation > stored:
            return Incarnation(
                new, f"keeper {disk.host} has seen incarnation {disk.incarnation}, the store has {stored}"
            )
        for group, rank in disk.tokens.items():
            # Once it was raised above what was seen, the next take is: the store is not behind any more.
            found = max(epochs.get(group, (0, 0)), (stored or 0, 0))
            if stored is not None and rank > found:
                return Incarnation(
                    new,
                    f"keeper {disk.host} has seen epoch {rank[1]} of {group}, the store has {found[1]}: it "
                    "went back",
                )
    if stored is None:
        return Incarnation(new, "the store had none")
    return Incarnation(stored, "")


def _believed(disk: KeeperDisk, now_ms: int) -> KeeperDisk:
    tokens = {group: rank for group, rank in disk.tokens.items() if bounds.believable(rank[0], now_ms)}
    seen = disk.incarnation if bounds.believable(disk.incarnation, now_ms) else 0
    return replace(disk, incarnation=seen, tokens=tokens)
