"""The keeper's disk: the highest token that it has seen of each group (R19), so that a store that went back
is noticed and not obeyed.

`keeper.json`: {"incarnation": N, "floors": {group: {"incarnation": N, "epoch": N}}, "rebuilt": bool};
hft-floord reads it at `up`. Raised in memory at once and written by `save`, which the caller runs outside the
loop; a crash between the two forgets one step at most, and the receivers' own fences (on their disks before
they acknowledge) still refuse.

A file that does not decode is set aside and rebuilt from what the other disks of this machine have seen
(witnesses.py). For a group that has had a leader and of which they know nothing, this keeper cannot tell
whether the store went back: `first_look` then asks for an incarnation above the store's, which gives that
group no lead here until the next `hftctl up` raises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import files, system_clock
from controlplane.host.files import Durability
from controlplane.leadership.group_view import Group, Rank
from controlplane.model import bounds, records

HEAL = "`hftctl down`, then `hftctl up`, raises the incarnation"


class _Content(msgspec.Struct):
    incarnation: int = 0
    tokens: dict[str, records.EpochRecord] = msgspec.field(default_factory=dict, name="floors")
    """By group. The name in the file is that of the first release."""
    rebuilt: bool = False
    """Out of witnesses, and not compared with the store yet (`first_look`)."""


class SeenTokens:
    def __init__(self, path: Path, witnesses: Callable[[], Mapping[str, Rank]] = dict[str, Rank]) -> None:
        """Read what an earlier keeper wrote; a damaged file is set aside and written anew.

        Raises:
            InvalidInput: it can be neither read nor set aside; to start without it would obey a store that
                went back.
        """
        self.path = path
        self.dirty = False
        self.trouble = ""
        """What was damaged, what it was rebuilt from, and what that means; empty: nothing was."""
        try:
            self._content = decode(path.read_bytes())
        except FileNotFoundError:
            self._content = _Content()
        except (OSError, InvalidInput) as exc:
            self._rebuild(str(exc), witnesses())

    def _rebuild(self, reason: str, found: Mapping[str, Rank]) -> None:
        self._content = _Content(
            max((rank[0] for rank in found.values()), default=0),
            {group: records.EpochRecord(*rank) for group, rank in found.items()},
            rebuilt=True,
        )
        try:
            aside = files.set_aside(self.path)
            self.save(self.content())
        except OSError as exc:
            raise InvalidInput(
                f"{self.path}: damaged ({reason}), and cannot be set aside: {exc}; move it away by hand. A "
                "keeper without it would obey a store that went back"
            ) from exc
        self.trouble = (
            f"{self.path}: damaged ({reason}); set aside as {aside.name} and rebuilt from what receivers, "
            f"lease pages and other keepers here have seen of {', '.join(sorted(found)) or 'no group'}"
        )

    def highest(self, service: str) -> Rank:
        """The highest token seen of the group: the store's own may not be below it."""
        seen = self._content.tokens.get(service)
        return max((seen.incarnation, seen.epoch) if seen else (0, 0), (self._content.incarnation, 0))

    def first_look(self, incarnation: int | None, led: Iterable[str]) -> None:
        """After a rebuild, once: `led` are the groups of the store that have had a leader."""
        content = self._content
        if not content.rebuilt:
            return
        unknown = sorted(group for group in led if group not in content.tokens)
        for group in unknown:
            content.tokens[group] = records.EpochRecord((incarnation or 0) + 1, 0)
        content.rebuilt, self.dirty = False, True
        if unknown:
            self.trouble += (
                f"; nothing here has seen a token of {', '.join(unknown)}, so that a store that went back "
                f"would not be noticed: no lead of these on this host until {HEAL}"
            )

    def raise_to(self, group: Group) -> None:
        content, epoch = self._content, group.epoch
        if (group.incarnation or 0) > content.incarnation:
            content.incarnation, self.dirty = group.incarnation or 0, True
        held = content.tokens.get(group.service)
        if epoch and (held is None or (epoch.incarnation, epoch.epoch) > (held.incarnation, held.epoch)):
            content.tokens[group.service], self.dirty = epoch, True

    def content(self) -> bytes:
        """What to `save`; taken in the loop, so that a thread never reads a dict that changes."""
        self.dirty = False
        return msgspec.json.encode(self._content)

    def save(self, content: bytes) -> None:
        """Atomically and synced. Raises OSError."""
        files.replace(self.path, content, Durability.POWER)


def decode(content: bytes) -> _Content:
    """Raises InvalidInput: not what a keeper writes."""
    try:
        found = model.decode(_Content, content)
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"expected a keeper's tokens: {exc}") from exc
    ranks = [(found.incarnation, 0), *((each.incarnation, each.epoch) for each in found.tokens.values())]
    if not all(possible(rank) for rank in ranks):
        raise InvalidInput(f"expected incarnations up to now (UNIX ms) and epochs up to {bounds.EPOCH_MAX}")
    return found


def possible(rank: Rank) -> bool:
    """Whether a store may have given it out until now."""
    now_ms = system_clock.latest_wall_ns() // 1_000_000
    return bounds.believable(rank[0], now_ms) and 0 <= rank[1] <= bounds.EPOCH_MAX
