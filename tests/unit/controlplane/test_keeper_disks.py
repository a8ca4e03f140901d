"""Keepers' files that hft-floord finds damaged at `up`: the incarnation is raised above all that they can
have seen, and the files are written anew.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from controlplane import model
from controlplane.floor import settling
from controlplane.floor.folders import Folders
from controlplane.model import records
from controlplane.store import Keys
from controlplane.store.memory import Memory, MemoryStore

KEYS = Keys("lab")
STORED = 1_700_000_000_000
GOOD = {"incarnation": STORED, "floors": {"omsd": {"incarnation": STORED, "epoch": 3}}}


def settled(site_dir: Path) -> tuple[int, list[str]]:
    """The store's incarnation after hft-floord has looked, and what it said."""

    async def case() -> tuple[int, list[str]]:
        client = MemoryStore(Memory())
        await client.put(KEYS.incarnation, str(STORED).encode())
        await client.put(KEYS.epoch("omsd"), model.encode(records.EpochRecord(STORED, 3)))
        said = list[str]()
        await settling.settle(client, KEYS, Folders(site_dir), said.append)
        entry = await client.get(KEYS.incarnation)
        assert entry is not None
        return int(entry.value), said

    return asyncio.run(case())


def disk(site_dir: Path, host: str, content: bytes) -> Path:
    path = site_dir / "hosts" / host / "keeper.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"incarnation": "x"}',
        b'{"floors": 3}',
        b'{"incarnation": %d}' % (2**64 - 1),
        b'{"floors": {"omsd": {"incarnation": 1, "epoch": %d}}}' % 10**30,
    ],
)
def test_a_damaged_file_raises_the_incarnation_and_is_written_anew(tmp_path: Path, content: bytes) -> None:
    good = disk(tmp_path, "alpha", json.dumps(GOOD).encode())
    bad = disk(tmp_path, "beta", content)
    raised, said = settled(tmp_path)
    assert raised > STORED
    assert any("keeper beta's seen tokens are damaged" in text for text in said)
    assert any(f"{bad}: damaged; set aside as keeper.json.damaged-" in text for text in said)
    assert json.loads(bad.read_bytes()) == {"incarnation": raised, "floors": {}}
    (aside,) = bad.parent.glob("keeper.json.damaged-*")
    assert aside.read_bytes() == content and json.loads(good.read_bytes()) == GOOD


def test_good_files_raise_nothing(tmp_path: Path) -> None:
    disk(tmp_path, "alpha", json.dumps(GOOD).encode())
    disk(tmp_path, "beta", json.dumps({**GOOD, "rebuilt": True, "newer": 1}).encode())
    assert settled(tmp_path) == (STORED, [])


def test_a_group_of_which_a_keeper_knows_nothing_is_healed_by_the_next_up(tmp_path: Path) -> None:
    """As agents/keeper/seen_tokens.py asks for it: an epoch 0 above the store's incarnation."""
    asked = {"incarnation": STORED, "floors": {"omsd": {"incarnation": STORED + 1, "epoch": 0}}}
    disk(tmp_path, "alpha", json.dumps(asked).encode())
    raised, said = settled(tmp_path)
    assert raised > STORED + 1 and len(said) == 1


def test_what_does_not_decode_is_quoted_in_part() -> None:
    said = list[str]()

    def refuse(value: bytes) -> None:
        raise ValueError(value.decode())

    settling.decoded("hft/lab/incarnation", b"x" * 100_000, refuse, said.append)
    assert len(said) == 1 and said[0].startswith("hft/lab/incarnation in the store does not decode")
    assert len(said[0]) < settling.REASON_MAX + 100
