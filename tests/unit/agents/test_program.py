"""What an instance is started with, and which changes of its spec restart it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents import paths
from agents.supervisor import program, supervisor
from controlplane.model import Mode, ServiceSpec

FOLDERS = paths.Paths("lab", "alpha", Path("/s"), Path("/r"))
OMSD = ServiceSpec(
    "omsd",
    "omsd",
    Mode.ACTIVE_STANDBY,
    ("alpha", "beta"),
    settings={"risk": "riskd"},
    uses=("riskd",),
    fences=("execd",),
)


def made(
    spec: ServiceSpec = OMSD,
    real_time: bool = False,
    folders: paths.Paths = FOLDERS,
    config: program.Configuration | None = None,
    flags: Mapping[str, Any] | None = None,
) -> program.Program:
    environment = {"PATH": "/bin", "HFT_SITE_DIR": "/elsewhere", "HFT_FLOOR": "/s"}
    return program.program(
        spec,
        spec.slots()[0],
        folders,
        7,
        argv=program.command(spec),
        environment=environment,
        real_time=real_time,
        config=config,
        flags=flags,
    )


def test_the_environment_is_the_contract_and_nothing_of_the_agents_own() -> None:
    assert made().env == {
        "PATH": "/bin",
        "HFT_FLOOR": "/s",
        "HFT_SITE": "lab",
        "HFT_HOST": "alpha",
        "HFT_SERVICE": "omsd",
        "HFT_INSTANCE": "omsd-alpha-1",
        "HFT_AGENT": "ipc:///r/alpha.bus",
        "HFT_ALIVE": "/r/omsd-alpha-1.alive",
        "HFT_LEASE": "/r/omsd-alpha-1.lease",
        "HFT_CONFIG": "/r/omsd-alpha-1.config.json",
    }


def test_only_a_group_with_a_leader_has_a_lease_word() -> None:
    assert "HFT_LEASE" not in made(ServiceSpec("bookd", "bookd", Mode.SINGLETON, ("alpha",))).env


def test_the_rendered_config_is_complete() -> None:
    assert json.loads(made().config) == {
        "revision": 1,
        "daemon": "omsd",
        "run_dir": "/r",
        "site_dir": "/s",
        "data_dir": "/s/data/omsd-alpha-1",
        "journal_dir": "/s/data/omsd-alpha-1",
        "settings": {"risk": "riskd"},
        "flags": {},
    }


def test_a_changed_document_and_the_plain_keys_are_in_the_config_that_is_rendered() -> None:
    found = json.loads(
        made(config=program.Configuration(4, {"risk": "r2"}), flags={"kill_switch": None}).config
    )
    assert (found["revision"], found["settings"]) == (4, {"risk": "r2"})
    assert found["flags"] == {"kill_switch": None}
    assert made(config=program.Configuration(4, {"risk": "r2"})).config_revision == 4


def test_only_a_setting_that_asks_for_a_restart_changes_the_hash_where_the_others_reach_a_process() -> None:
    live = replace(OMSD, settings={"risk": "riskd", "limit": 1}, restart=("risk",))
    other = {"risk": "riskd", "limit": 2}
    assert program.spec_hash(live) == program.spec_hash(live, other)
    assert program.spec_hash(live) != program.spec_hash(live, {"risk": "r2", "limit": 1})
    earlier = replace(live, restart=None)
    assert program.spec_hash(earlier) != program.spec_hash(earlier, other), "every setting restarts"
    all_of_them = replace(live, restart=("limit", "risk"))
    assert program.spec_hash(all_of_them) == program.spec_hash(earlier), "as in the release before"


def test_journals_can_have_a_disk_of_their_own() -> None:
    moved = json.loads(made(folders=replace(FOLDERS, journal_dir=Path("/j"))).config)
    assert (moved["journal_dir"], moved["data_dir"]) == ("/j/omsd-alpha-1", "/s/data/omsd-alpha-1")


@pytest.mark.parametrize(
    "change",
    [{"daemon": "other"}, {"settings": {"risk": "r2"}}, {"cpus": (1,)}, {"sched": "fifo:10"}, {"fences": ()}],
)
def test_what_a_process_was_started_with_changes_its_hash(change: dict[str, object]) -> None:
    assert program.spec_hash(replace(OMSD, **change)) != program.spec_hash(OMSD)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"hosts": ("alpha",)}, {"instances_per_host": 2}, {"uses": ()}])
def test_where_else_the_service_runs_and_whom_it_finds_does_not(change: dict[str, object]) -> None:
    assert program.spec_hash(replace(OMSD, **change)) == program.spec_hash(OMSD)  # type: ignore[arg-type]


def test_the_hash_does_not_depend_on_the_order_of_settings() -> None:
    one, two = replace(OMSD, settings={"a": 1, "b": 2}), replace(OMSD, settings={"b": 2, "a": 1})
    assert program.spec_hash(one) == program.spec_hash(two)


def test_fifo_without_root_is_left_out_and_said() -> None:
    fifo = replace(OMSD, sched="fifo:10")
    assert ("HFT_SCHED" in made(fifo).env, made(fifo).left_out) == (
        False,
        ("sched fifo:10 and locked memory: not permitted to this user",),
    )
    assert (made(fifo, real_time=True).env["HFT_SCHED"], made(fifo, real_time=True).left_out) == (
        "fifo:10",
        (),
    )
    assert made(replace(OMSD, sched="batch")).env["HFT_SCHED"] == "batch", "needs nobody's leave"


def test_users_are_stopped_before_what_they_use() -> None:
    def spec(name: str, *uses: str, mode: Mode = Mode.SINGLETON) -> ServiceSpec:
        return ServiceSpec(name, name, mode, ("alpha",), uses=uses)

    led = Mode.ACTIVE_STANDBY
    floor = [
        spec("simd"),
        spec("marketd", "simd"),
        spec("bookd", "marketd"),
        spec("positiond", "bookd"),
        spec("auditd"),
        spec("riskd", "bookd", "positiond", mode=led),
        spec("execd", "simd", mode=led),
        spec("omsd", "riskd", "execd", "positiond", "auditd", "omsd", mode=led),
        spec("strategy-mm", "bookd", "riskd", "positiond"),
    ]
    batches = supervisor.stop_order(floor)
    place = {name: index for index, batch in enumerate(batches) for name in batch}
    assert batches[:2] == [{"strategy-mm"}, {"omsd"}]
    assert all(place[spec.name] < place[used] for spec in floor for used in spec.uses if used != spec.name)


def test_services_that_use_each_other_are_stopped_all_the_same() -> None:
    ring = [
        ServiceSpec(name, name, Mode.SINGLETON, ("alpha",), uses=(other,))
        for name, other in (("a", "b"), ("b", "a"))
    ]
    assert supervisor.stop_order(ring) == [{"a", "b"}]
