"""Whose site it is: one floor's, whatever happens to its id or its record."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from controlplane import model, store
from controlplane.errors import InUse, InvalidInput, Unavailable
from controlplane.floor import claim
from controlplane.floor.folders import Folders
from controlplane.model.records import SiteRecord
from controlplane.store.memory import MemoryStore

KEYS = store.Keys("lab")


def run(coroutine: Coroutine[Any, Any, bool]) -> bool:
    return asyncio.run(coroutine)


@pytest.fixture
def client() -> MemoryStore:
    return MemoryStore()


def folders(path: Path) -> Folders:
    path.mkdir(mode=0o700, exist_ok=True)
    return Folders(path)


def recorded(client: MemoryStore) -> SiteRecord:
    entry = asyncio.run(client.get(KEYS.site_record))
    assert entry is not None
    return model.decode(SiteRecord, entry.value)


def test_the_first_makes_it_its_own_and_finds_it_again(client: MemoryStore, tmp_path: Path) -> None:
    mine = folders(tmp_path / "mine")
    assert run(claim.claim(client, KEYS, mine)) is False
    first = recorded(client)
    assert (mine.site_dir / claim.FILE).read_text().strip() == first.floor and len(first.floor) == 32
    assert run(claim.claim(client, KEYS, mine)) is False
    assert recorded(client) == first


def test_another_is_refused_by_name_until_it_says_join(client: MemoryStore, tmp_path: Path) -> None:
    run(claim.claim(client, KEYS, folders(tmp_path / "mine")))
    first, other = recorded(client), folders(tmp_path / "other")
    with pytest.raises(InUse) as caught:
        run(claim.claim(client, KEYS, other))
    for part in ('site "lab"', first.floor[:8], first.by, first.host, "--join", str(other.site_dir)):
        assert part in str(caught.value), part
    assert not (other.site_dir / claim.FILE).exists()
    assert run(claim.claim(client, KEYS, other, join=True)) is True
    assert run(claim.claim(client, KEYS, other)) is False
    assert recorded(client) == first, "the record is never changed"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no id", b"0" * 10_000])
def test_an_id_that_is_damaged_is_none_and_the_embedded_store_heals_it(
    content: bytes, client: MemoryStore, tmp_path: Path
) -> None:
    mine = folders(tmp_path / "mine")
    run(claim.claim(client, KEYS, mine))
    (mine.site_dir / claim.FILE).write_bytes(content)
    with pytest.raises(InUse, match="there is no id of it in"):
        run(claim.claim(client, KEYS, mine))
    assert run(claim.claim(client, KEYS, mine, own_store=True)) is False
    assert (mine.site_dir / claim.FILE).read_text().strip() == recorded(client).floor
    assert run(claim.claim(client, KEYS, mine)) is False


def test_a_record_that_is_none_is_refused_and_left(client: MemoryStore, tmp_path: Path) -> None:
    for rubbish in (b"", b"{}", b"\xff", b'{"floor": 1}', b"x" * 100_000):
        asyncio.run(client.put(KEYS.site_record, rubbish))
        for words in ({}, {"join": True}):
            with pytest.raises(InvalidInput, match="hft/lab/site in the store: found") as caught:
                run(claim.claim(client, KEYS, folders(tmp_path / "mine"), **words))
            assert len(str(caught.value)) < 500
        entry = asyncio.run(client.get(KEYS.site_record))
        assert entry is not None and entry.value == rubbish
        # In the store that is the folder's own it keeps no floor from coming up.
        assert run(claim.claim(client, KEYS, folders(tmp_path / "mine"), own_store=True)) is False
        assert recorded(client).floor in (tmp_path / "mine" / claim.FILE).read_text()


class Racing(MemoryStore):
    """Another `up` puts its record between the look and the write."""

    def __init__(self, other: Folders) -> None:
        super().__init__()
        self.other = other

    async def get(self, key: str) -> store.Entry | None:
        found = await super().get(key)
        if found is None:
            assert await claim.claim(self.client(), KEYS, self.other) is False
        return found


def test_of_two_at_once_one_has_it(tmp_path: Path) -> None:
    client = Racing(folders(tmp_path / "first"))
    with pytest.raises(InUse, match="another --site"):
        run(claim.claim(client, KEYS, folders(tmp_path / "second")))


def test_a_disk_that_does_not_take_the_id_is_said_and_the_site_is_left(
    client: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(claim.files, "replace", full)
    with pytest.raises(InUse, match="No space left on device, wanted room for the floor's id"):
        run(claim.claim(client, KEYS, folders(tmp_path / "mine")))
    assert asyncio.run(client.get(KEYS.site_record)) is None


def test_an_answer_that_was_lost_is_found_out_by_the_next_try(client: MemoryStore, tmp_path: Path) -> None:
    mine = folders(tmp_path / "mine")
    client.lose_next_answer()
    with pytest.raises(Unavailable):
        run(claim.claim(client, KEYS, mine))
    assert run(claim.claim(client, KEYS, mine)) is False
