"""What a host runs when the store cannot say it: the last good specs, and nothing that was removed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import anyio
import msgspec
import pytest

from agents import last_specs, settings
from agents.last_specs import GoodSpec, LastSpecs
from controlplane import model
from controlplane.model import Mode, ServiceSpec
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.model.specs import Tombstone
from controlplane.site import nouns
from controlplane.site.view import SiteView
from controlplane.store import Entry, Keys, Snapshot
from controlplane.store.memory import MemoryStore

KEYS = Keys("lab")
DAEMONS = {"bookd", "riskd"}
TOMBSTONE = Tombstone("ann", "why", "2026-01-01T00:00:00.000Z", ("alpha",))


def spec(name: str, *hosts: str, daemon: str = "") -> ServiceSpec:
    return ServiceSpec(name, daemon or name, Mode.SINGLETON, hosts or ("alpha",))


def view(records: Mapping[str, object], revision: int = 7) -> SiteView:
    entries = {}
    for service, record in records.items():
        value = record if isinstance(record, bytes) else model.encode(record)
        entries[KEYS.spec(service)] = Entry(KEYS.spec(service), value, revision)
    return nouns.view_of(KEYS, Snapshot(revision, entries))


@pytest.fixture
def last(tmp_path: Path) -> LastSpecs:
    return LastSpecs(tmp_path / "specs.json", "alpha", DAEMONS)


def test_the_specs_of_a_host_are_on_its_disk_for_its_next_agent(last: LastSpecs) -> None:
    last.take(view({"bookd": spec("bookd"), "riskd": spec("riskd", "beta")}))
    again = LastSpecs(last.path, "alpha", DAEMONS)
    assert again.decision.in_force == {
        "bookd": GoodSpec(spec("bookd"), 7),
        "riskd": GoodSpec(spec("riskd", "beta"), 7),
    }
    again.take(view({"riskd": spec("riskd", "beta"), "bookd": TOMBSTONE}))
    assert set(LastSpecs(last.path, "alpha", DAEMONS).decision.in_force) == {"riskd"}


@pytest.mark.parametrize(
    "bad", [b"{", b"[]", model.encode(spec("riskd")), model.encode(spec("bookd", daemon="bokd"))]
)
def test_a_spec_that_cannot_be_used_stops_nothing_and_is_named(last: LastSpecs, bad: bytes) -> None:
    last.take(view({"bookd": spec("bookd")}))
    found = last.take(view({"bookd": bad}, revision=9))
    assert found.in_force == {"bookd": GoodSpec(spec("bookd"), 7)}
    assert found.sentence().startswith("bookd: ")
    assert found.sentence().endswith("its last good spec (revision 7) stays in force")
    healed = last.take(view({"bookd": spec("bookd", "alpha", "beta")}, revision=11))
    assert healed.in_force["bookd"].spec_revision == 11 and not healed.sentence()


def test_the_file_of_an_earlier_release_is_read(last: LastSpecs) -> None:
    plain = {"bookd": {"spec": msgspec.to_builtins(spec("bookd")), "config_revision": 57}}
    last.path.write_bytes(msgspec.json.encode(plain))
    again = LastSpecs(last.path, "alpha", DAEMONS)
    assert (again.trouble, again.decision.in_force) == ("", {"bookd": GoodSpec(spec("bookd"), 57)})


def test_who_looks_at_the_site_sees_the_spec_in_force(last: LastSpecs) -> None:
    good = view({"bookd": spec("bookd"), "riskd": spec("riskd")})
    last.take(good)
    assert last.over(good) is good
    bad = view({"bookd": b"{", "riskd": spec("riskd", "beta")}, revision=9)
    last.take(bad)
    shown = last.over(bad)
    assert list(shown.specs.items()) == [("bookd", spec("bookd")), ("riskd", spec("riskd", "beta"))]
    assert shown.spec_revisions == {"bookd": 7, "riskd": 9} and shown.undecodable
    assert last.over(bad) is shown, "made once a view"


def test_a_first_spec_that_cannot_be_used_is_not_started_and_is_named(last: LastSpecs) -> None:
    found = last.take(view({"bookd": b"{", "far": spec("far", "beta", daemon="bokd")}))
    assert set(found.in_force) == {"far"}
    assert found.sentence() == (
        "bookd: its spec does not decode: Input data was truncated, and no earlier spec of it is known "
        "here: it is not started"
    ), "an unknown daemon of another host is that host's concern"


def test_a_tombstone_ends_what_was_in_force(last: LastSpecs) -> None:
    last.take(view({"bookd": spec("bookd")}))
    found = last.take(view({"bookd": TOMBSTONE}))
    assert found == last_specs.SpecsInForce({}) and not last.missing


def test_a_spec_that_is_not_there_stops_nothing_and_is_named(last: LastSpecs) -> None:
    good = view({"bookd": spec("bookd"), "riskd": spec("riskd", "beta")})
    last.take(good)
    empty = view({}, revision=9)
    found = last.take(empty)
    assert set(found.in_force) == {"bookd", "riskd"}, "riskd: its hosts have not said that they stopped it"
    assert found.sentence().startswith(f"bookd: {last_specs.ABSENT}, its last good spec (revision 7) stays")
    assert set(last.over(empty).specs) == set(last.over(empty).spec_faults) == {"bookd", "riskd"}
    assert set(LastSpecs(last.path, "alpha", DAEMONS).take(empty).in_force) == {"bookd", "riskd"}
    healed = last.take(good)
    assert not healed.refused and not last.missing


@pytest.mark.parametrize("ends", [True, False])
def test_a_spec_of_another_host_ends_when_that_host_runs_none_of_it(last: LastSpecs, ends: bool) -> None:
    """A tombstone that came and went while this host did not look."""
    last.take(view({"riskd": spec("riskd", "beta")}))
    assert set(last.take(view({})).in_force) == {"riskd"} and last.missing
    running = () if ends else (instance_status("riskd-beta-1", "riskd", "beta"),)
    host = HostRecord("beta", "127.0.0.1", "", "", "boot", 1, instances=running)
    found = last.take(dataclasses.replace(view({}), hosts={"beta": host}))
    assert set(found.in_force) == (set() if ends else {"riskd"}) and last.missing is not ends


def instance_status(name: str, service: str, host: str) -> InstanceStatus:
    return InstanceStatus(
        name, service, service, host, 1, "running", None, "active", 0, "passing", "", True, 1, 0, (), "other",
        {}, "", 1,
    )  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"{", b'{"bookd": 3}'])
def test_a_file_that_does_not_decode_is_none(last: LastSpecs, content: bytes) -> None:
    last.path.write_bytes(content)
    assert LastSpecs(last.path, "alpha", DAEMONS).decision.in_force == {}


def test_an_orderly_end_leaves_nothing_to_go_on_with(last: LastSpecs) -> None:
    last.take(view({"bookd": spec("bookd")}))
    last.forget()
    assert not last.path.exists()
    last.forget()


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    last = LastSpecs(tmp_path / "gone" / "specs.json", "alpha", DAEMONS)
    assert set(last.take(view({"bookd": spec("bookd")})).in_force) == {"bookd"}


def test_the_installed_daemons_are_known_by_name() -> None:
    assert {"bookd", "omsd", "simd"} <= last_specs.installed_daemons()


def test_a_stop_is_confirmed_when_no_instance_is_left_and_again_after_the_store_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "STATUS_EVERY_S", 0.001)

    async def story() -> None:
        store = MemoryStore()
        tombstone = Tombstone("ann", "why", "2026-01-01T00:00:00.000Z", ("alpha",))
        await store.put(KEYS.spec("bookd"), model.encode(tombstone))
        here = ["bookd"]
        watcher = store.client()
        async with asyncio.timeout(10), anyio.create_task_group() as tasks:
            tasks.start_soon(
                last_specs.confirm_stops, "alpha", lambda: {"bookd": tombstone}, lambda: here, store, KEYS
            )
            await asyncio.sleep(0.02)
            assert await watcher.get(KEYS.spec("bookd")), "an instance still stops"
            store.cut()
            here.clear()
            await asyncio.sleep(0.02)
            store.heal()
            while await watcher.get(KEYS.spec("bookd")):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            tasks.cancel_scope.cancel()

    asyncio.run(story())
