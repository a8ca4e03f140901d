"""`up` on a floor that runs (as its files and its lock say), over the memory store: what it applies, what it
remembers, what it refuses; and the waiting for a store that does not come.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane import store
from controlplane.errors import HftctlError, InUse, InvalidInput, Refused, Unavailable
from controlplane.floor import run_file, up, wait
from controlplane.floor.folders import Folders
from controlplane.floor.run_file import RunFile
from controlplane.host import identity, locks
from controlplane.model import ServiceSpec, records
from controlplane.model.specs import Tombstone
from controlplane.operations import config_change
from controlplane.site import nouns
from controlplane.specs import apply as specs_apply
from controlplane.store import Keys

SERVICES = """\
services:
  - {name: simd, daemon: simd, mode: singleton, hosts: [alpha]}
  - {name: auditd, daemon: auditd, mode: singleton, hosts: [beta]}
"""
_numbers = itertools.count(1)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folders, self.name = Folders(folder / "site"), f"floor-up-{next(_numbers)}"
        self.folders.create()
        floor = {
            "site": "lab",
            "floord": identity.to_plain(identity.myself("floord")),
            "run_dir": str(folder),
            "store": {"kind": "memory", "endpoints": [self.name]},
        }
        self.folders.floor_json.write_text(json.dumps(floor))
        self.file = folder / "services.yml"
        self.file.write_text(SERVICES)
        run_file.write(self.folders, RunFile("lab", services_file=str(self.file)))
        self.said: list[str] = []

    def up(self, **options: object) -> up.Started:
        self.said.clear()
        return up.bring_up(self.folders, up.Options(**options), self.said.append)  # type: ignore[arg-type]

    def stored(self) -> dict[str, ServiceSpec | Tombstone]:
        async def read() -> dict[str, ServiceSpec | Tombstone]:
            entries = (await store.connect(f"memory://{self.name}").range(Keys("lab").specs)).entries
            return {
                key.rpartition("/")[2]: records.decode_spec(entry.value) for key, entry in entries.items()
            }

        return asyncio.run(read())


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    with locks.take(made.folders.floor_lock, "floord", "in use"):
        yield made


def test_the_hosts_are_named_once_the_services_are_applied(bench: Bench) -> None:
    started = bench.up()
    assert not started.fresh and started.changes == 0, "there was nothing before"
    assert set(bench.stored()) == set(started.revisions) == {"simd", "auditd"}
    assert run_file.read(bench.folders) == RunFile(
        "lab", ("alpha", "beta"), services_file=str(bench.file), journal_dir=""
    )
    assert bench.folders.services.read_text() == SERVICES


def test_journals_stay_where_they_are_whatever_the_environment_of_the_next_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HFT_JOURNAL_DIR", str(tmp_path / "fast disk"))
    bench.up()
    monkeypatch.delenv("HFT_JOURNAL_DIR")
    bench.up()
    found = run_file.read(bench.folders)
    assert found is not None and found.journal_dir == str(tmp_path / "fast disk")
    for elsewhere in ("/another", ""):
        monkeypatch.setenv("HFT_JOURNAL_DIR", elsewhere)
        with pytest.raises(InUse, match=r"fast disk, not in .*hftctl down first"):
            bench.up()
    assert run_file.read(bench.folders) == found


def test_a_changed_file_is_shown_and_applied_and_a_bare_up_keeps_the_seed_and_changes_nothing(
    bench: Bench,
) -> None:
    bench.up()
    assert bench.up(seed=7).changes == 1
    assert bench.said[1:] == ["  ~ simd.settings.seed: 1 -> 7"] and str(bench.file) in bench.said[0]
    before = bench.folders.run_json.stat()
    again = bench.up()
    assert again.changes == 0 and bench.said == []
    assert bench.folders.run_json.stat() == before, "hft-floord has nothing to look at"
    simd = bench.stored()["simd"]
    assert isinstance(simd, ServiceSpec) and simd.settings["seed"] == 7


def test_a_setting_that_the_store_changed_too_is_a_conflict_of_up_until_it_is_settled(bench: Bench) -> None:
    bench.up()

    async def change() -> None:
        client, keys = store.connect(f"memory://{bench.name}"), Keys("lab")
        view = nouns.view_of(keys, await client.range(keys.root))
        asked = config_change.ConfigRequest("set", "why", "ann", "simd", set={"seed": 5})
        await config_change.ConfigChange(client, keys, lambda: view).run(asked)

    asyncio.run(change())
    assert bench.up().changes == 0 and bench.said == [], "the store wins, and the file is as it was"
    with pytest.raises(Refused, match=r"nothing was changed: ! simd.settings.seed: .*--settings store"):
        bench.up(seed=7)
    remembered = run_file.read(bench.folders)
    assert remembered is not None and remembered.overrides == {}
    assert bench.up(seed=7, settings="store").changes == 0
    assert bench.said == ["= simd.settings.seed: 5 stays, as in the store (the file has 7)"]
    assert bench.up().changes == 0 and bench.said == []


def test_what_does_not_fit_the_floor_that_runs_is_refused_and_changes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.up()
    monkeypatch.setitem(up.embedded.KINDS, "other", "nowhere:Other")
    with pytest.raises(InUse, match="its floor runs with etcd, not other"):
        bench.up(store="other")
    with pytest.raises(InUse, match='in use by the floor of site "lab"'):
        bench.up(site="berth", services=bench.file)
    run_file.write(bench.folders, RunFile("lab", ("beta",), services_file=str(bench.file)))
    with pytest.raises(InvalidInput, match="host alpha is new; a running floor keeps its hosts"):
        bench.up()
    bench.folders.desired_json.write_text(json.dumps({"site": "lab", "services_file": str(bench.file)}))
    bench.folders.run_json.unlink()
    with pytest.raises(Refused, match="started by an earlier hftctl: hftctl down ends it"):
        bench.up()
    assert bench.said == [] and set(bench.stored()) == {"simd", "auditd"}


def test_a_change_by_another_operator_meanwhile_is_refused_and_not_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.up()
    real = specs_apply.plan

    async def plan(
        client: store.Store, keys: Keys, wanted: tuple[ServiceSpec, ...], settings: str
    ) -> specs_apply.Plan:
        made = await real(client, keys, wanted, settings)
        await client.delete(keys.spec("auditd"))
        return made

    monkeypatch.setattr(specs_apply, "plan", plan)
    with pytest.raises(Refused, match=r"auditd: planned on its spec as wanted .* the store now has nothing"):
        bench.up(seed=7)
    remembered = run_file.read(bench.folders)
    assert remembered is not None and remembered.overrides == {}


def test_hft_floord_that_ended_is_said_with_its_last_lines(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.create()
    folders.log("floord").write_text("one\nno etcd found\n")
    with pytest.raises(HftctlError) as caught:
        wait.store_url(folders)
    assert str(caught.value).splitlines() == ["hft-floord has ended:", "    one", "    no etcd found"]


def test_a_store_that_does_not_answer_is_said_to_be_silent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "STORE_TIMEOUT_S", 0.0)
    bench.folders.floor_json.write_text('{"store": {}}')
    with pytest.raises(Unavailable, match="not started yet; nothing was applied"):
        wait.store_url(bench.folders)
