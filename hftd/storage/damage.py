"""A journal with whole records behind a place that is none: they were written, and perhaps acknowledged, so
this is damage and not the torn tail that a power cut leaves.

What is behind the damage cannot be used: what is missing in between may change what it means. So either the
opening is refused (`Damaged`), or, where other members have the same records, the journal goes on with what
is before the damage, the rest is kept for people in files `damaged-*`, and the file `damage.json` says that
this journal lacks acknowledged records, over every restart, until its owner has them again from a leader or
a person deletes the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability

NOTE = "damage.json"


class Damage(msgspec.Struct, frozen=True):
    """The file `damage.json`."""

    path: str
    """The segment in which it begins."""
    at_byte: int
    bytes: int
    """From there to the end of the journal's files."""
    records: int
    """Whole ones among them."""
    last_seq: int
    """Highest sequence of those: who has taken everything up to here from a leader lacks nothing."""
    kept: list[str] = []
    """The files that hold those bytes now."""

    def __str__(self) -> str:
        return (
            f"{self.path} is damaged at byte {self.at_byte}; {self.records} whole records, up to "
            f"{self.last_seq}, are in the {self.bytes} bytes from there on"
        )


class Damaged(InvalidInput):
    """Records that may have been acknowledged are behind damage."""


def read_note(folder: Path) -> Damage | None:
    """Raises InvalidInput: there is a note, and it does not decode."""
    path = folder / NOTE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Damage)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as exc:
        raise InvalidInput(
            f"{path}: it says what this journal lacks, and does not decode ({exc}); delete it only if no "
            "other member has records that this one lacks"
        ) from exc


def write_note(folder: Path, found: Damage) -> Damage:
    """Written before anything is moved, so that a crash in between does not make the journal look whole. One
    that stands already is not weakened. Raises OSError.
    """
    standing = read_note(folder)
    if standing is not None:
        found = msgspec.structs.replace(
            found,
            last_seq=max(found.last_seq, standing.last_seq),
            kept=[*standing.kept, *(name for name in found.kept if name not in standing.kept)],
        )
    files.replace(folder / NOTE, msgspec.json.encode(found), Durability.POWER)
    return found


def forget(folder: Path) -> None:
    """The journal lacks nothing any more. Raises OSError."""
    (folder / NOTE).unlink(missing_ok=True)
    files.sync_folder(folder)


def names_for(damaged: list[Path]) -> list[Path]:
    """Where the damaged files are kept: one free name for each."""
    found = []
    for path in damaged:
        n = 0
        while (kept := path.with_name(f"damaged-{path.name}.{n}")).exists():
            n += 1
        found.append(kept)
    return found


def quarantine(damaged: list[Path], kept: list[Path], good: bytes) -> None:
    """Keep the damaged files under other names; the first one's good beginning, if there is one, takes its
    place.

    From the last one back: wherever this stops, what is left is found damaged again. Raises OSError.
    """
    others = list(zip(damaged, kept, strict=True))
    first, name = others.pop(0)
    for path, aside in reversed(others):
        path.rename(aside)
    if good:
        os.link(first, name)
        files.replace(first, good, Durability.POWER, mode=0o600)
    else:
        first.rename(name)
