"""A receiver's fences as they are on its disk (`fences.json`): JSON {group: {"incarnation", "epoch",
"claimant"}}.

A receiver alone reads and writes its file while it runs (storage/fences.py). While it is stopped its agent
may lower a fence in it (`hftctl fence reset`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.model import Process

NOBODY = Process("", "", 0, 0)
"""Claimant of an epoch that is known to be closed: no process equals it, so that epoch passes for none."""


class Row(msgspec.Struct, frozen=True):
    """The highest token of one group, and the process that came with it first."""

    incarnation: int
    epoch: int
    claimant: Process

    @property
    def rank(self) -> tuple[int, int]:
        return (self.incarnation, self.epoch)


def read(path: Path) -> dict[str, Row]:
    """Empty when there is no file.

    Raises:
        InvalidInput: it does not decode.
    """
    try:
        return model.decode(dict[str, Row], path.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as exc:
        raise InvalidInput(
            f"{path}: expected the token fences of this receiver, found what does not decode: {exc}"
        ) from exc


def write(path: Path, rows: Mapping[str, Row]) -> None:
    """Replace the file whole, synced. Raises OSError; then the old one stands."""
    files.replace(path, msgspec.json.encode(rows), Durability.POWER, mode=0o600)
