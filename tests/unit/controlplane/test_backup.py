"""Backups: what is in the file, that a bad file changes nothing, and that a restore that stops anywhere can
be run again while nothing starts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import backup, model, store
from controlplane.backup import file, restoring
from controlplane.errors import InUse, InvalidInput, Refused, Unavailable
from controlplane.floor import claim, settling
from controlplane.floor.folders import Folders
from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.specs import Tombstone
from controlplane.store import Compare, Delete, Keys, Put
from controlplane.store.memory import Memory, MemoryStore

pytestmark = pytest.mark.anyio

KEYS = Keys("lab")
NOW_MS = time.time_ns() // 1_000_000
OLD = NOW_MS - 1_000_000
"""The incarnation of before."""
ME = Process("omsd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 123456)
FLOOR = "a" * 32


def records_of_a_site() -> dict[str, bytes]:
    operation = records.OperationRecord("apply-1", "apply", "omsd", "succeeded", "ann", "why", 1, 2)
    row = records.HistoryRow(2, None, "omsd-alpha-1", "first", "system", "", None, 1)
    return {
        KEYS.incarnation: str(OLD).encode(),
        KEYS.site_record: model.encode(records.SiteRecord(FLOOR, "ann", "here", 1)),
        KEYS.secret: bytes(range(32)),
        KEYS.spec("omsd"): b'{"name":"omsd"}',
        KEYS.spec("simd"): b'{"name":"simd"}',
        KEYS.leader("omsd"): model.encode(records.LeaderRecord(ME, OLD, 2, ME.instance, "n")),
        KEYS.epoch("omsd"): model.encode(records.EpochRecord(OLD, 2)),
        KEYS.electable("omsd"): model.encode(records.ElectableRecord((ME,), 2)),
        KEYS.history_row("omsd", 2): model.encode(row),
        KEYS.request("omsd"): model.encode(
            records.RequestRecord("failover-1", "failover", None, 2, "pending", "ann", "why", 1)
        ),
        KEYS.operation("apply-1"): model.encode(operation),
        KEYS.operation("apply-2"): model.encode(
            dataclasses.replace(operation, id="apply-2", state="running", finished_ns=None)
        ),
        f"{KEYS.root}rubbish": b"\x00\xff",
    }


async def filled(found: dict[str, bytes] | None = None) -> MemoryStore:
    client = MemoryStore(Memory())
    for key, value in (found or records_of_a_site()).items():
        await client.put(key, value)
    return client


async def contents(client: store.Store) -> dict[str, bytes]:
    return {key: entry.value for key, entry in (await client.range("")).entries.items()}


async def put_back(
    client: store.Store, path: Path, keys: Keys = KEYS, *, force: bool = False, seen: Sequence[int] = ()
) -> backup.Restored:
    with file.opened(path) as found:
        return await backup.restore(client, keys, found, actor="ann", reason="test", force=force, seen=seen)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A backup of the site."""
    found = tmp_path / "one.hftbackup"

    async def take() -> None:
        await backup.take(await filled(), KEYS, found, actor="ann")

    asyncio.run(take())
    return found


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "TRY_AGAIN_S", 0.0)
    monkeypatch.setattr(restoring, "LOOKS_S", 0.01)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One of two keys."""
    found = tmp_path / "small.hftbackup"
    with file.writing(found, file.Header(site="lab", taken_ns=1)) as out:
        out.add("incarnation", b"1")
        out.add("specs/omsd", b"{}")
    return found


# --- what is in it ------------------------------------------------------------------------------------------


async def test_what_hangs_on_a_lease_is_in_no_backup_and_everything_else_of_the_site_is(
    tmp_path: Path,
) -> None:
    client = await filled()
    lease = await client.lease(60)
    await client.put(KEYS.registration("omsd", "omsd-alpha-1"), b"{}", lease=lease)
    await client.put(KEYS.host("alpha"), b"{}", lease=lease)
    await client.put(KEYS.controller(), b"{}", lease=lease)
    await client.put(f"{KEYS.root}somebody/elses", b"{}", lease=lease)
    await client.put(KEYS.host("left-over"), b"{}")
    await client.put("hft/other/specs/omsd", b"{}")
    taken = await backup.take(client, KEYS, tmp_path / "one", actor="ann")
    with file.opened(tmp_path / "one") as found:
        assert {f"{KEYS.root}{each.key}": each.value for each in found.records()} == records_of_a_site()
        assert (found.header.site, found.header.floor, found.header.incarnation) == ("lab", FLOOR, OLD)
    assert taken.records == len(records_of_a_site()) and not taken.left_out


def test_it_is_its_owners_alone_and_replaces_an_older_one_whole(path: Path, tmp_path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    header = file.Header(site="lab", taken_ns=1)
    with pytest.raises(RuntimeError), file.writing(path, header) as out:
        out.add("specs/omsd", b"{}")
        raise RuntimeError("the store went away")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing half-written is left"


async def test_a_value_that_no_store_takes_back_is_left_out_and_named(tmp_path: Path) -> None:
    memory = Memory()
    memory.commit([], [Put(f"{KEYS.root}big", bytes(600 * 1024)), Put(KEYS.incarnation, b"1")])
    taken = await backup.take(MemoryStore(memory), KEYS, tmp_path / "one", actor="ann")
    assert taken.records == 1
    assert len(taken.left_out) == 1 and f"{KEYS.root}big" in taken.left_out[0]


async def test_a_site_that_is_not_there_is_said_and_no_file_is_made(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="nothing of it"):
        await backup.take(MemoryStore(Memory()), KEYS, tmp_path / "one", actor="ann")
    assert file.header_of(tmp_path / "one") is None


# --- a file that is none ------------------------------------------------------------------------------------


def test_a_file_that_is_cut_anywhere_is_refused(small: Path, tmp_path: Path) -> None:
    whole, cut = small.read_bytes(), tmp_path / "cut"
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(InvalidInput) as refused, file.opened(cut):
            pass
        assert str(cut) in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_of_which_any_byte_was_changed_is_refused(small: Path, tmp_path: Path) -> None:
    whole, edited = small.read_bytes(), tmp_path / "edited"
    for at in range(len(whole)):
        edited.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InvalidInput), file.opened(edited):
            pass


def test_more_after_the_end_of_it_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InvalidInput, match="more after its last line"), file.opened(path):
        pass


def test_a_newer_version_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "newer"
    with file.writing(path, file.Header(site="lab", taken_ns=1, version=file.VERSION + 1)) as out:
        out.add("specs/omsd", b"{}")
    with pytest.raises(InvalidInput, match=f"version {file.VERSION + 1}"), file.opened(path):
        pass


@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"\xff" * 100, b"[1]\n", b"x" * (2 << 20)])
def test_a_file_that_is_no_backup_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(content)
    with pytest.raises(InvalidInput), file.opened(tmp_path / "none"):
        pass


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidInput, match=str(path)), file.opened(path):
            pass


@pytest.mark.parametrize(
    "rows",
    [
        [("hosts/alpha", b"{}")],
        [("services/omsd/omsd-alpha-1", b"{}")],
        [("controller", b"{}")],
        [("restoring", b"{}")],
        [("", b"{}")],
        [("specs/omsd", b"{}"), ("specs/omsd", b"{}")],
        [("x" * 600, b"{}")],
    ],
)
async def test_a_file_with_what_no_backup_holds_changes_nothing(
    rows: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    client, path = await filled(), tmp_path / "one"
    before = await contents(client)
    with file.writing(path, file.Header(site="lab", taken_ns=1)) as out:
        for key, value in rows:
            out.add(key, value)
    with pytest.raises(InvalidInput):
        await put_back(client, path, force=True)
    assert await contents(client) == before


def test_a_file_that_changes_while_it_is_put_back_changes_nothing(path: Path) -> None:
    client = MemoryStore(Memory())
    with file.opened(path) as found:
        path.write_bytes(path.read_bytes().replace(b'"specs/simd"', b'"specs/simx"'))
        with pytest.raises(InvalidInput):
            asyncio.run(backup.restore(client, KEYS, found, actor="ann", reason=""))
    assert asyncio.run(contents(client)) == {}


# --- putting it back ----------------------------------------------------------------------------------------


async def test_what_is_put_back_is_the_site_with_a_higher_incarnation_and_nobody_electable(
    path: Path,
) -> None:
    client = await filled({f"{KEYS.root}since": b"1", KEYS.spec("new"): b"{}", "hft/other/x": b"1"})
    done = await put_back(client, path)
    found, wanted = await contents(client), records_of_a_site()
    assert found.pop("hft/other/x") == b"1"
    assert done.incarnation > max(OLD, NOW_MS - 1) and done.removed == 2
    assert found.pop(KEYS.incarnation) == str(done.incarnation).encode()
    electable = model.decode(records.ElectableRecord, found.pop(KEYS.electable("omsd")))
    assert electable == records.ElectableRecord((), 2)
    request = model.decode(records.RequestRecord, found.pop(KEYS.request("omsd")))
    assert request.state == "cancelled"
    operation = model.decode(records.OperationRecord, found.pop(KEYS.operation("apply-2")))
    assert operation.state == "unknown"
    own = model.decode(records.OperationRecord, found.pop(KEYS.operation(done.operation)))
    assert (own.kind, own.state, own.actor, own.reason) == ("restore", "succeeded", "ann", "test")
    for key in (KEYS.incarnation, KEYS.electable("omsd"), KEYS.request("omsd"), KEYS.operation("apply-2")):
        del wanted[key]
    assert found == wanted


@pytest.mark.parametrize("where", ["file", "store", "epoch", "keeper", "half"])
async def test_the_incarnation_is_above_every_one_that_was_seen(where: str, tmp_path: Path) -> None:
    """By a day and less, as clocks differ; what is further ahead was not made by hftctl."""
    ahead, mad = NOW_MS + 3_600_000, NOW_MS + 10 * 24 * 3_600_000
    source = records_of_a_site()
    if where == "file":
        source[KEYS.incarnation] = str(ahead).encode()
    if where == "epoch":
        source[KEYS.epoch("omsd")] = model.encode(records.EpochRecord(ahead, 7))
    path = tmp_path / "one"
    await backup.take(await filled(source), KEYS, path, actor="ann")
    client = await filled({KEYS.incarnation: str(ahead if where == "store" else mad).encode()})
    if where == "half":
        marker = records.RestoringRecord("restore-1", "f", "ann", "here", 1, ahead)
        await client.put(KEYS.restoring, model.encode(marker))
    done = await put_back(client, path, seen=[ahead, mad] if where == "keeper" else [])
    assert done.incarnation == ahead + 1


async def test_a_site_that_runs_is_refused_and_so_are_another_floor_and_another_site(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "LOOKS_S", 0.05)
    client = await filled()
    lease = await client.lease(60)
    await client.put(KEYS.host("alpha"), b"0", lease=lease)

    async def write() -> None:
        for number in range(1000):
            await client.put(KEYS.host("alpha"), str(number).encode(), lease=lease)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(write())
    with pytest.raises(InUse, match="host alpha"):
        await put_back(client, path)
    task.cancel()
    assert KEYS.incarnation in await contents(client)
    await put_back(client, path)  # the record of a dead agent stands still

    other = await filled({KEYS.site_record: model.encode(records.SiteRecord("b" * 32, "bob", "x", 1))})
    before = await contents(other)
    with pytest.raises(InUse, match="bbbbbbbb"):
        await put_back(other, path)
    with pytest.raises(InvalidInput, match='site "lab"'):
        await put_back(other, path, Keys("east"))
    assert await contents(other) == before
    await put_back(other, path, force=True)
    assert FLOOR.encode() in (await contents(other))[KEYS.site_record]


class Failing(MemoryStore):
    """Its link breaks for good at one transaction, before or after the server has it."""

    def __init__(self, memory: Memory, at: int, *, applied: bool = False, for_good: bool = True) -> None:
        super().__init__(memory)
        self.transactions = 0
        self.at, self.applied, self.for_good = at, applied, for_good

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete]
    ) -> store.Committed | store.Lost:
        self.transactions += 1
        if self.transactions == self.at or (self.for_good and self.transactions > self.at):
            if self.applied and self.transactions == self.at:
                await super().txn(compares, then)
            raise Unavailable("the link broke", ambiguous=True)
        return await super().txn(compares, then)


def big_site() -> dict[str, bytes]:
    return records_of_a_site() | {f"{KEYS.root}config/omsd/{n:05d}": b"{}" * 100 for n in range(200)}


@pytest.mark.parametrize("applied", [False, True])
async def test_a_restore_that_stops_anywhere_starts_nothing_and_is_run_again(
    applied: bool, tmp_path: Path
) -> None:
    path, folders = tmp_path / "one", Folders(tmp_path / "site")
    folders.create()
    await backup.take(await filled(big_site()), KEYS, path, actor="ann")
    stops = 0
    for at in range(1, 50):
        memory = (await filled({KEYS.spec("old"): b"{}", KEYS.incarnation: str(OLD).encode()})).memory
        one = Failing(memory, at, applied=applied)
        try:
            await put_back(one, path)
        except Unavailable:
            stops += 1
        else:
            break
        client = MemoryStore(memory)
        found = await contents(client)
        if KEYS.restoring in found:
            assert KEYS.incarnation not in found, "nobody may lead"
            if at > 2 - applied:  # the second one ends those of before
                assert not [key for key in found if key.startswith(KEYS.specs)], "nothing is there to start"
            for refused in (
                settling.settle(client, KEYS, folders, print),
                claim.claim(client, KEYS, folders),
            ):
                with pytest.raises(Refused, match="hftctl restore"):
                    await refused
            with pytest.raises(Refused, match="no backup"):
                await backup.take(client, KEYS, tmp_path / "two", actor="ann")
        else:
            assert found == {KEYS.spec("old"): b"{}", KEYS.incarnation: str(OLD).encode()} or applied
        done = await put_back(client, path)
        again = await contents(client)
        assert KEYS.restoring not in again and again[KEYS.incarnation] == str(done.incarnation).encode()
        assert done.incarnation > OLD and KEYS.spec("old") not in again
        assert {key for key in again if not key.startswith(KEYS.operations)} == {
            key for key in big_site() if not key.startswith(KEYS.operations)
        }
        await settling.settle(client, KEYS, folders, print)
    assert stops >= 5, "it is written in several transactions"


async def test_an_answer_that_was_lost_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one"
    await backup.take(await filled(big_site()), KEYS, path, actor="ann")
    for at in range(1, 8):
        for applied in (False, True):
            memory = Memory()
            done = await put_back(Failing(memory, at, applied=applied, for_good=False), path)
            found = await contents(MemoryStore(memory))
            assert found[KEYS.incarnation] == str(done.incarnation).encode()
            assert KEYS.restoring not in found and len(found) == len(big_site()) + 1


class Interrupted(MemoryStore):
    """Another restore begins in the middle of this one."""

    def __init__(self, memory: Memory, path: Path) -> None:
        super().__init__(memory)
        self.path, self.transactions = path, 0

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Put | Delete]
    ) -> store.Committed | store.Lost:
        self.transactions += 1
        if self.transactions == 3:
            await put_back(MemoryStore(self.memory), self.path)
        return await super().txn(compares, then)


async def test_of_two_restores_at_once_the_later_one_stands(path: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    await backup.take(await filled(big_site()), KEYS, first, actor="ann")
    memory = Memory()
    with pytest.raises(Refused, match="another restore"):
        await put_back(Interrupted(memory, path), first)
    found = await contents(MemoryStore(memory))
    assert KEYS.restoring not in found and KEYS.incarnation in found
    assert not [key for key in found if "config/" in key], "none of the first one's is left beside it"


async def test_services_beyond_one_transaction_come_last_all_the_same(tmp_path: Path) -> None:
    many = {KEYS.spec(f"service-{n:03d}"): b"{}" for n in range(150)}
    path = tmp_path / "one"
    await backup.take(await filled(records_of_a_site() | many), KEYS, path, actor="ann")
    client = MemoryStore(Memory())
    await put_back(client, path)
    found = await contents(client)
    assert set(many) <= set(found)
    newest = {key: (await client.range("")).entries[key].revision for key in found}
    assert max(r for key, r in newest.items() if key.startswith(KEYS.specs)) < newest[KEYS.incarnation]
    assert max(
        r for key, r in newest.items() if not key.startswith((KEYS.specs, KEYS.operations, KEYS.incarnation))
    ) < min(r for key, r in newest.items() if key.startswith(KEYS.specs))


def test_the_golden_file(small: Path) -> None:
    """docs/protocol.md has it; another hftctl's file is read for as long as there are any."""
    before = (
        b'{"format":"hftctl-backup","version":1,"site":"lab","taken_ns":1,"taken_at":"","by":"","host":"",'
        b'"floor":"","incarnation":0,"store_kind":"","store_version":"","revision":0}\n'
        b'["incarnation","MQ=="]\n'
        b'["specs/omsd","e30="]\n'
    )
    digest = hashlib.sha256(before).hexdigest().encode()
    assert small.read_bytes() == before + b'{"records":2,"sha256":"' + digest + b'"}\n'


async def test_a_service_that_the_backup_has_not_is_ended_by_a_tombstone_on_its_hosts(path: Path) -> None:
    """Without one its hosts would go on with the spec that they have on their disks."""
    spec = ServiceSpec("later", "bookd", Mode.SINGLETON, ("alpha", "beta"))
    client = await filled({KEYS.spec("later"): model.encode(spec), KEYS.spec("rubbish"): b"\xff"})
    await put_back(client, path)
    found = records.decode_spec((await contents(client))[KEYS.spec("later")])
    assert isinstance(found, Tombstone) and found.hosts == ("alpha", "beta")
    assert (found.by, found.reason) == ("ann", "test")
    assert KEYS.spec("rubbish") not in await contents(client)


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_are_taken_for_a_backup_or_break_its_reader(content: bytes, headed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any"
        begin = b'{"format":"hftctl-backup","version":1,"site":"lab","taken_ns":1}\n' if headed else b""
        path.write_bytes(begin + content)
        with pytest.raises(InvalidInput), file.opened(path):
            pass
