"""A backup out of each store, and back into it: the same keys whatever lies between."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane import backup, store
from controlplane.backup import file, native
from controlplane.config import plain, revisions
from controlplane.errors import Refused
from controlplane.store import Keys, Put
from controlplane.store.memory import Memory, MemoryStore
from tests.support import configured

pytestmark = pytest.mark.anyio
KEYS_IN_ALL = 1_600
"""Four pages of etcd's."""


async def put_many(client: store.Store, found: dict[str, bytes]) -> None:
    rows = list(found.items())
    for at in range(0, len(rows), 60):
        await client.txn([], [Put(key, value) for key, value in rows[at : at + 60]])


async def kept(client: store.Store, keys: Keys) -> dict[str, bytes]:
    """Without what a restore writes of its own, and what lives by a lease."""
    found = (await client.range(keys.root)).entries.values()
    return {
        entry.key: entry.value
        for entry in found
        if not entry.leased and entry.key != keys.incarnation and not entry.key.startswith(keys.operations)
    }


async def test_what_goes_out_of_a_store_comes_back_into_it_and_into_another(
    connect: Callable[[], store.Store], root: str, tmp_path: Path
) -> None:
    client, keys, path = connect(), Keys(root.split("/")[1]), tmp_path / "one"
    wanted = {f"{keys.root}config/omsd/{n:05d}": str(n).encode() * 20 for n in range(KEYS_IN_ALL)}
    wanted |= {
        f"{keys.root}empty": b"",
        f"{keys.root}bytes": bytes(range(256)),
        f"{keys.root}large": b"x" * 500_000,
        f"{keys.root}a key with spaces, dots. and ä/%2F": b"1",
        keys.spec("omsd"): b"{}",
    }
    await put_many(client, wanted)
    await client.put(keys.incarnation, b"1000")
    lease = await client.lease(60)
    await client.put(keys.host("alpha"), b"{}", lease=lease)
    await client.put(f"{keys.root}locks/x", b"{}", lease=lease)

    taken = await backup.take(connect(), keys, path, actor="ann")
    assert taken.records == len(wanted) + 1 and not taken.left_out
    elsewhere = MemoryStore(Memory())
    with file.opened(path) as found:
        await backup.restore(elsewhere, keys, found, actor="ann", reason="")
    assert await kept(elsewhere, keys) == wanted

    await put_many(client, {f"{keys.root}since/{n}": b"1" for n in range(200)})
    await client.put(keys.spec("omsd"), b"changed")
    await backup.take(elsewhere, keys, path, actor="ann")
    with file.opened(path) as found:
        done = await backup.restore(connect(), keys, found, actor="ann", reason="")
    assert await kept(client, keys) == wanted and done.removed == 200
    entry = await client.get(keys.incarnation)
    assert entry is not None and int(entry.value) == done.incarnation > 1000
    assert await client.get(keys.restoring) is None
    assert await client.get(keys.host("alpha")) is not None, "what lives by a lease is its writer's"


async def test_a_restored_site_has_its_configuration_with_the_history_and_its_keys(
    connect: Callable[[], store.Store], root: str, tmp_path: Path
) -> None:
    client, keys, path = connect(), Keys(root.split("/")[1]), tmp_path / "one"
    await client.put(keys.incarnation, b"1000")
    await configured.put_spec(client, keys, max_position="50")
    change = await configured.change(client, keys)
    await change.run(configured.asked(set={"max_position": "60"}))
    await change.run(configured.asked(set={"burst": 900}))
    await change.run(configured.asked(to=2, base=3))
    await plain.put(client, keys, "kill_switch", plain.made("kill_switch", True))
    await plain.put(client, keys, "soon_over", plain.made("soon_over", 1, ttl_s=60.0))
    before = await revisions.read(client, keys, "riskd")

    await backup.take(connect(), keys, path, actor="ann")
    await change.run(configured.asked(set={"max_position": "70"}))
    await plain.delete(client, keys, "kill_switch")
    for into in (MemoryStore(Memory()), client):
        with file.opened(path) as found:
            await backup.restore(into, keys, found, actor="ann", reason="")
        now = await revisions.read(into, keys, "riskd")
        assert (now.revision, sorted(now.config.revisions)) == (4, [1, 2, 3, 4])
        assert now.config == before.config and now.document == before.document
        switch = await plain.get(into, keys, "kill_switch")
        assert switch is not None and switch.value is True
        over = await plain.get(into, keys, "soon_over")
        assert (over is None) == (into is not client), "a key with a TTL is the store's to end"
        again = await (await configured.change(into, keys)).run(configured.asked(set={"burst": 950}))
        assert again["to"] == 5


async def test_an_entry_says_whether_it_lives_by_a_lease(one: store.Store, root: str) -> None:
    lease = await one.lease(60)
    await one.put(f"{root}leased", b"1", lease=lease)
    await one.put(f"{root}plain", b"1")
    found = (await one.range(root)).entries
    assert found[f"{root}leased"].leased and not found[f"{root}plain"].leased
    watch = one.watch(root)
    seen = (await anext(watch)).entries
    assert seen[f"{root}leased"].leased and not seen[f"{root}plain"].leased
    await watch.aclose()
    await one.put(f"{root}leased", b"1")
    entry = await one.get(f"{root}leased")
    assert entry is not None and not entry.leased


async def test_the_store_s_own_snapshot_is_whole_or_not_there(
    one: store.Store, root: str, tmp_path: Path
) -> None:
    path = tmp_path / "one.snapshot"
    one.try_within(10)
    await put_many(one, {f"{root}{n}": b"x" * 1000 for n in range(200)})
    if one.kind == "memory":  # takes none, and says so
        with pytest.raises(Refused):
            await native.take(one, path)
        return
    await native.take(one, path)
    whole = path.read_bytes()
    check = {"etcd": native.check_etcd, "consul": native.check_consul}[one.kind]
    check(io.BytesIO(whole), path)
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:-40] + b"x" + whole[-39:], b""):
        with pytest.raises(Refused):
            check(io.BytesIO(damaged), path)
