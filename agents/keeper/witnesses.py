"""What the disks of this machine know of the highest tokens, for a keeper that has lost its own (R19).

Three kinds of witness: the fences of receivers, which synced each token before they acknowledged it (R10);
the files of other hosts' keepers in the same site folder; the lease pages and fence files of the run folder.
A token that none of them has seen has fenced no receiver here. What cannot be read is no witness.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from agents.keeper import seen_tokens
from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.leadership.group_view import Rank
from controlplane.model import records
from hftd.shm import fence_file, pages


def highest(site_dir: Path, run_dir: Path, host: str) -> dict[str, Rank]:
    """By group."""
    found: dict[str, Rank] = {}
    for group, rank in _all(site_dir, run_dir, host):
        if seen_tokens.possible(rank):
            found[group] = max(rank, found.get(group, (0, 0)))
    return found


def _all(site_dir: Path, run_dir: Path, host: str) -> Iterator[tuple[str, Rank]]:
    for path in [*site_dir.glob("data/*/fences.json"), site_dir / "simd" / "fences.json"]:
        yield from _rows(files.read_json(path))
    for path in site_dir.glob("hosts/*/keeper.json"):
        yield from _rows((files.read_json(path) or {}).get("floors"))
    for path in run_dir.glob("*.lease"):
        with contextlib.suppress(OSError, InvalidInput):
            for group, target in fence_file.read(path).items():
                yield group, target.token.rank
            with pages.LeasePage(path) as page:
                word = page.read()
            service = path.stem.rpartition("-")[0].removesuffix(f"-{host}")
            if word.process is not None and word.process.instance == path.stem and service:
                yield service, (word.incarnation, word.epoch)


def _rows(found: object) -> Iterator[tuple[str, Rank]]:
    for group, row in found.items() if isinstance(found, dict) else ():
        with contextlib.suppress(msgspec.ValidationError):
            token = msgspec.convert(row, records.EpochRecord)
            yield group, (token.incarnation, token.epoch)
