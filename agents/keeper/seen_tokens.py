"""The keeper's disk: the highest token that it has seen of each group (R19), so that a store that went back
is noticed and not obeyed.

`keeper.json`: {"incarnation": N, "floors": {group: {"incarnation": N, "epoch": N}}}; hft-floord reads it at
`up`. Raised in memory at once and written by `save`, which the caller runs outside the loop; a crash between
the two forgets one step at most, and the receivers' own fences (on their disks before they acknowledge) still
refuse.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.leadership.decide import Group, Rank
from controlplane.model import records


class _Content(msgspec.Struct):
    incarnation: int = 0
    tokens: dict[str, records.EpochRecord] = msgspec.field(default_factory=dict, name="floors")
    """By group. The name in the file is that of the first release."""


class SeenTokens:
    def __init__(self, path: Path) -> None:
        """Read what an earlier keeper wrote.

        Raises:
            InvalidInput: the file does not decode; to start without it would obey a store that went back.
        """
        self.path = path
        self.dirty = False
        try:
            self._content = msgspec.json.decode(path.read_bytes(), type=_Content)
        except FileNotFoundError:
            self._content = _Content()
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidInput(
                f"{path}: expected this keeper's tokens, found what does not decode: {exc}"
            ) from exc

    def highest(self, service: str) -> Rank:
        """The highest token seen of the group: the store's own may not be below it."""
        seen = self._content.tokens.get(service)
        return max((seen.incarnation, seen.epoch) if seen else (0, 0), (self._content.incarnation, 0))

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
