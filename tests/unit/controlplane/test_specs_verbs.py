"""`hftctl diff` and `apply` over the memory store: what they print, what they change and how they exit."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane import store
from controlplane.cli import main, specs
from controlplane.config import revisions
from controlplane.floor import run_file
from controlplane.floor.folders import Folders
from controlplane.floor.run_file import RunFile
from controlplane.model import ServiceSpec, records
from controlplane.model.specs import Tombstone
from controlplane.operations import config_change
from controlplane.site import nouns
from controlplane.specs import apply as specs_apply
from controlplane.specs.apply import Applied
from controlplane.store import Keys

SERVICES = """\
services:
  - {name: simd, daemon: simd, mode: singleton, hosts: [alpha]}
  - {name: auditd, daemon: auditd, mode: singleton, hosts: [beta]}
"""
_numbers = itertools.count(1)
Run = Callable[..., int]


class Bench:
    """A floor that "runs" as far as its files say, over the memory store."""

    def __init__(self, folder: Path) -> None:
        self.folders, self.name = Folders(folder), f"specs-verbs-{next(_numbers)}"
        floor = {
            "site": "lab",
            "hosts": ["alpha", "beta"],
            "store": {"kind": "memory", "endpoints": [self.name]},
        }
        self.folders.floor_json.write_text(json.dumps(floor))
        run_file.write(self.folders, RunFile("lab", ("alpha", "beta"), overrides={"simd": {"seed": 7}}))
        self.file = folder / "services.yml"
        self.file.write_text(SERVICES)

    def run(self, verb: str, *words: str) -> int:
        return main.run([verb, "-f", str(self.file), "--site-dir", str(self.folders.site_dir), *words])

    def stored(self) -> dict[str, ServiceSpec | Tombstone]:
        async def read() -> dict[str, ServiceSpec | Tombstone]:
            entries = (await store.connect(f"memory://{self.name}").range(Keys("lab").specs)).entries
            return {
                key.rpartition("/")[2]: records.decode_spec(entry.value) for key, entry in entries.items()
            }

        return asyncio.run(read())

    def set_in_store(self, service: str, settings: dict[str, object]) -> None:
        async def change() -> None:
            client = store.connect(f"memory://{self.name}")
            view = nouns.view_of(Keys("lab"), await client.range(Keys("lab").root))
            asked = config_change.ConfigRequest("set", "why", "ann", service, set=settings)
            await config_change.ConfigChange(client, Keys("lab"), lambda: view).run(asked)

        asyncio.run(change())

    def document(self, service: str) -> dict[str, object]:
        async def read() -> dict[str, object]:
            client = store.connect(f"memory://{self.name}")
            found = (await revisions.read(client, Keys("lab"), service)).document
            assert found is not None
            return dict(found)

        return asyncio.run(read())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_diff_says_what_an_apply_would_do_and_does_nothing(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run("diff") == 1
    assert capsys.readouterr().out.splitlines() == ["+ simd", "+ auditd"]
    assert bench.stored() == {}


def test_an_apply_with_yes_is_applied_with_the_settings_of_up_over_those_of_the_file(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run("apply", "--yes", "--no-wait") == 0
    assert "2 changes applied (operation apply-" in capsys.readouterr().out
    simd = bench.stored()["simd"]
    assert isinstance(simd, ServiceSpec) and simd.settings["seed"] == 7
    assert bench.run("diff") == 0
    assert bench.run("apply", "--yes", "--no-wait") == 0
    assert capsys.readouterr().out == "nothing to do: the services are as the file says\n"


@pytest.mark.parametrize(("side", "stays"), [("file", 0.2), ("store", 0.5)])
def test_a_setting_changed_in_file_and_store_is_shown_with_all_sides_and_settled_by_name(
    bench: Bench, capsys: pytest.CaptureFixture[str], side: str, stays: float
) -> None:
    assert bench.run("apply", "--yes", "--no-wait") == 0
    bench.set_in_store("auditd", {"head_every_s": 0.5})
    bench.file.write_text(SERVICES.replace("[beta]", "[beta], settings: {head_every_s: 0.2}"))
    capsys.readouterr()
    for verb in (["diff"], ["apply", "--yes"]):
        assert bench.run(*verb) == 1
        out = capsys.readouterr().out.splitlines()
        assert out[0].startswith(
            "! auditd.settings.head_every_s: changed on both sides: the file had 1.0 when it was applied "
            "last and has 0.2 now, the store has 0.5, revision 2 (set by ann at"
        )
        assert "--settings file" in out[1] and len(out) == 2
    assert bench.document("auditd")["head_every_s"] == 0.5
    assert bench.run("apply", "--yes", "--no-wait", "--settings", side) == 0
    assert bench.document("auditd")["head_every_s"] == stays
    assert bench.run("diff") == 0
    assert bench.run("apply", "--yes", "--settings", "mine") == 2
    assert 'found "mine", wanted file or store' in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("Yes", 0), ("n", 1), ("", 1)])
def test_at_a_terminal_an_apply_asks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert bench.run("apply", "--no-wait") == code
    assert bool(bench.stored()) == (code == 0)


def test_without_a_terminal_and_without_yes_nothing_is_applied(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert bench.run("apply", "--no-wait") == 1
    assert "--yes applies it" in capsys.readouterr().err and bench.stored() == {}


CONFLICT = specs_apply.Conflict("simd", "a", "b")
NOT_CARRIED_OUT: list[tuple[Applied, int, list[str]]] = [
    (
        Applied("refused", "op1", "", not_applied=("simd",), conflicts=(CONFLICT,)),
        1,
        ["hftctl: not applied (operation op1)", "hftctl: simd: planned on a, the store now has b"],
    ),
    (
        Applied("failed", "op1", "no room", ("simd",), ("auditd",)),
        1,
        ["hftctl: only partly applied (operation op1)", "hftctl: no room", "hftctl: applied: simd"],
    ),
    (
        Applied("unknown", "op1", "no answer"),
        4,
        ["(operation op1; hftctl diff shows what the store has)"],
    ),
]


@pytest.mark.parametrize(("done", "code", "said"), NOT_CARRIED_OUT)
def test_an_apply_that_was_not_carried_out_says_what_was_and_what_was_not(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    done: Applied,
    code: int,
    said: list[str],
) -> None:
    async def apply(*given: object, **also: object) -> Applied:
        return done

    monkeypatch.setattr(specs_apply, "apply", apply)
    assert bench.run("apply", "--yes") == code
    error = capsys.readouterr().err
    assert all(part in error for part in said), error


def test_a_bad_file_a_new_host_and_a_floor_that_is_down_are_refused(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench.file.write_text(SERVICES.replace("daemon: auditd", "daemon: audit"))
    assert bench.run("diff") == 2 and f"{bench.file}:3: services[1].daemon" in capsys.readouterr().err
    bench.file.write_text(SERVICES)
    floor = json.loads(bench.folders.floor_json.read_text())
    bench.folders.floor_json.write_text(json.dumps(floor | {"hosts": ["alpha"]}))
    assert bench.run("apply", "--yes") == 2
    assert "host beta has no agent on this floor (it has alpha;" in capsys.readouterr().err
    bench.folders.floor_json.unlink()
    assert bench.run("diff") == 3 and bench.run("apply", "--yes") == 3
    assert bench.stored() == {}


def test_the_verbs_import_no_store_before_they_are_typed() -> None:
    assert specs.apply.__module__ == "controlplane.cli.specs"
    assert not {"store", "specs_apply", "folders", "asyncio"} & set(vars(specs))
