"""Every decoder of bytes from outside, fed with bytes that are almost right: it answers, or refuses with the
one error that its loop counts and drops.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import itertools
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hftd
from agents import last_specs, wanted_config
from agents.keeper import pings, protocol
from controlplane import model
from controlplane.errors import HftctlError, InvalidInput
from controlplane.floor import run_file, settling
from controlplane.floor.folders import Folders
from controlplane.leadership import group_records
from controlplane.model import records
from controlplane.model.observed import HostRecord
from controlplane.model.specs import Tombstone
from controlplane.site import document, nouns, status
from controlplane.site.view import SiteView
from controlplane.specs import read as specs_read
from controlplane.store import Entry, Keys, Snapshot
from controlplane.store.base import Health
from hftd.shm import fence_file, pages
from hftd.storage import fences
from hftd.venues import replay
from hftd.wire import codec
from tests.fuzz import mutate

KEYS = Keys("lab")


def wire_decoders() -> dict[str, codec.Decoder[Any]]:
    """All that hftd's modules have, by module and name."""
    found: dict[str, codec.Decoder[Any]] = {}
    for module in pkgutil.walk_packages(hftd.__path__, "hftd."):
        if module.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, codec.Decoder) and value not in found.values():
                found[f"{module.name}.{name}"] = value
    return found


WIRE = wire_decoders()


@pytest.mark.parametrize("name", sorted(WIRE))
def test_messages_between_daemons(name: str) -> None:
    decoder = WIRE[name]
    seeds = [codec.encode(each) for each in mutate.examples(decoder.union)]
    for seed in seeds:
        decoder(seed)  # else nothing behind the first check is tried
    counts = mutate.attack(decoder, seeds, "msgpack", (InvalidInput,))
    assert all(counts.values()), counts


def test_lines_between_agent_and_keeper() -> None:
    for decode, kind in (
        (protocol.decode_table, protocol.Table),
        (protocol.decode_from_keeper, protocol.FromKeeper),
    ):
        seeds = [msgspec.json.encode(each) for each in mutate.examples(kind)]
        counts = mutate.attack(decode, seeds, "json", (InvalidInput,))
        assert all(counts.values()), counts


RECORDS: Mapping[str, Any] = {
    KEYS.spec("alpha"): model.ServiceSpec,
    KEYS.spec("gone"): Tombstone,
    KEYS.registration("alpha", "alpha"): records.Registration,
    KEYS.host("alpha"): HostRecord,
    KEYS.leader("alpha"): records.LeaderRecord,
    KEYS.epoch("alpha"): records.EpochRecord,
    KEYS.electable("alpha"): records.ElectableRecord,
    KEYS.request("alpha"): records.RequestRecord,
    KEYS.history_row("alpha", 1): records.HistoryRow,
    KEYS.breaker_override("alpha"): records.BreakerOverride,
    KEYS.operation("alpha"): records.OperationRecord,
    KEYS.controller(): records.ControllerRecord,
    KEYS.pause: document.Paused,
}
"""Every text of an example is "alpha" where that fits: the names in the records are those of their keys."""
GOOD = {key: model.encode(mutate.examples(kind)[0]) for key, kind in RECORDS.items()} | {
    KEYS.incarnation: b"1700000000000",
    KEYS.audit_head("auditd"): b'{"seq": 3, "hash": "x"}',
}


def shown(key: str, value: bytes) -> SiteView:
    """What an agent makes of a store in which this one record is another: the view, the status, its JSON."""
    entries = {at: Entry(at, good, 7) for at, good in GOOD.items()}
    entries[key] = Entry(key, value, 8)
    view = nouns.view_of(KEYS, Snapshot(8, entries))
    last = last_specs.decide("alpha", {}, view, {"alpha"})
    health = Health("etcd", ("x",), True, "3.5", 1.0, "")
    document.decode(document.encode(status.build(view, status.Now(1_700_000_000_000_000_000, health))))
    assert set(view.undecodable) <= {key} and last.sentence() is not None
    return view


@pytest.mark.parametrize("key", sorted(GOOD))
def test_records_of_the_store(key: str) -> None:
    mutate.attack(lambda value: shown(key, value), [GOOD[key]], "json", ())


def test_records_of_a_group_as_a_keeper_reads_them() -> None:
    keys = [key for key in GOOD if key.startswith(KEYS.groups)]
    good = {at: Entry(at, GOOD[at], 7) for at in keys}
    site = {KEYS.incarnation: Entry(KEYS.incarnation, GOOD[KEYS.incarnation], 7)}
    before = group_records.group_of(Snapshot(7, good), site, KEYS, "alpha")

    def read(key: str, value: bytes) -> None:
        entries = {**good, key: Entry(key, value, 8)}
        group = group_records.group_of(Snapshot(8, entries), site, KEYS, "alpha", before)
        assert group.epoch is not None and group.epoch.epoch <= model.bounds.EPOCH_MAX

    for key in keys:
        mutate.attack(lambda value, key=key: read(key, value), [GOOD[key]], "json", (InvalidInput,))


def in_a_file(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    def door(content: bytes) -> object:
        path.write_bytes(content)
        return read()

    return door


def test_the_services_file(tmp_path: Path) -> None:
    path = tmp_path / "services.yml"
    own = (Path(specs_read.__file__).parents[2] / "inventory/lab/services.yml").read_bytes()
    door = in_a_file(path, lambda: specs_read.read(path))
    assert door(own)
    mutate.attack(door, [own, own[:600]], "none", (HftctlError,))


def test_what_is_kept_on_disk(tmp_path: Path) -> None:
    claimant = b'{"instance": "a", "boot_id": "b", "pid": 1, "start_time": 1}'
    fence = b'{"omsd": {"incarnation": 1, "epoch": 2, "claimant": %s}}' % claimant
    good_spec = msgspec.json.encode({"omsd": mutate.examples(last_specs.GoodSpec)[0]})
    folders = Folders(tmp_path)
    folders.create()
    keeper = tmp_path / "hosts" / "alpha" / "keeper.json"
    keeper.parent.mkdir(parents=True)
    doors: list[tuple[Path, bytes, Callable[[], object]]] = [
        (
            tmp_path / "fences.json",
            fence,
            lambda: fences.Fences(tmp_path / "fences.json", lambda group: None),
        ),
        (
            tmp_path / "specs.json",
            good_spec,
            lambda: last_specs.LastSpecs(tmp_path / "specs.json", "alpha", {"alpha"}),
        ),
        (
            tmp_path / "config.json",
            b'{"configs": {"omsd-alpha-1": {"revision": 2, "settings": {"n": 1}}}, "flags": {"f": true}}',
            lambda: wanted_config.WantedConfig(tmp_path / "config.json", "alpha", lambda kind: None),
        ),
        (
            tmp_path / "omsd-alpha-1.config.json",
            b'{"revision": 2, "settings": {"n": 1}, "flags": {}}',
            lambda: wanted_config.rendered(tmp_path / "omsd-alpha-1.config.json"),
        ),
        (
            folders.run_json,
            b'{"site": "lab", "hosts": ["alpha"], "http_port": 0}',
            lambda: run_file.read(folders),
        ),
        (
            keeper,
            b'{"incarnation": 1, "floors": {"omsd": {"incarnation": 1, "epoch": 2}}}',
            lambda: settling.keeper_disks(folders),
        ),
        (folders.floor_json, b'{"site": "lab", "floord": null, "hosts": []}', folders.running),
        (
            tmp_path / "x.fence",
            msgspec.json.encode({"omsd": mutate.examples(fence_file.Target)[0]}),
            lambda: fence_file.read(tmp_path / "x"),
        ),
    ]
    for path, good, read in doors:
        mutate.attack(in_a_file(path, read), [good], "json", (HftctlError,))


def test_pages_of_shared_memory(tmp_path: Path) -> None:
    process = model.Process("alpha", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 123456)
    pages.create(tmp_path / "lease", pages.LEASE_MAGIC)
    with pages.LeasePage(tmp_path / "lease", writable=True) as lease:
        lease.write(pages.LeaseWord(process, 1_700_000_000_000, 9, pages.Wanted.LEAD, 5))
    pages.create(tmp_path / "alive", pages.ALIVE_MAGIC)
    with pages.HeartbeatPage(tmp_path / "alive", writable=True) as alive:
        alive.write(pages.Alive(4711, 123456, 7, model.Phase.ACTIVE, 9, 3, 2))
    for kind, path in ((pages.LeasePage, tmp_path / "lease"), (pages.HeartbeatPage, tmp_path / "alive")):

        def read(kind: Any = kind, path: Path = path) -> object:
            with kind(path) as page:
                return page.read()

        assert read()
        mutate.attack(in_a_file(path, read), [path.read_bytes()], "none", (InvalidInput, OSError, ValueError))


def test_pings_between_keepers() -> None:
    key = b"k" * 32
    who = ("omsd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 123456)
    seeds = [
        pings.seal(key, kind("lab", "alpha", "beta", 7, b"12345678", [who]))
        for kind in (pings.Ping, pings.Pong)
    ]
    refuses = (InvalidInput, pings.NotAuthentic)
    raw = mutate.attack(lambda data: pings.open_sealed(key, data), seeds, "none", refuses)
    assert raw["refused"] > raw["taken"]

    def sealed(body: bytes) -> object:
        """Bytes of one who has the key, and is of another release or broken."""
        mac = hashlib.blake2b(body, key=key, digest_size=pings.MAC_BYTES).digest()
        return pings.open_sealed(key, mac + body)

    counts = mutate.attack(sealed, [seed[pings.MAC_BYTES :] for seed in seeds], "msgpack", (InvalidInput,))
    assert all(counts.values()), counts


def test_tapes(tmp_path: Path) -> None:
    """As compressed text that is almost right, and as compressed bytes that are."""
    path = tmp_path / "spot" / "btcusdt_20240808.gz"
    path.parent.mkdir()
    text = b"".join(b'%d {"stream":"btcusdt@depth","data":{"u":%d}}\n' % (10**18 + n, n) for n in range(20))

    def play() -> int:
        items = list(itertools.islice(replay.Tape([tmp_path]), 200_000))
        assert all(isinstance(item, replay.Line | replay.BadLine) for item in items)
        assert all(item.receive_ns < 1 << 63 for item in items if isinstance(item, replay.Line))
        return len(items)

    door = in_a_file(path, play)
    assert door(gzip.compress(text)) == 20
    mutate.attack(lambda plain: door(gzip.compress(plain, 1)), [text], "none", (InvalidInput,))
    mutate.attack(door, [gzip.compress(text)], "none", (InvalidInput,))
