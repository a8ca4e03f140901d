"""Configuration for people, made of a view: what is wanted and in force, which revisions build on which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlplane.errors import InvalidInput
from controlplane.model import Mode, ServiceSpec, records
from controlplane.model.config import ConfigRevision, CurrentConfig, PlainKey, RolloutRecord, ServiceConfig
from controlplane.model.observed import HostRecord, InstanceStatus
from controlplane.site import config_document
from controlplane.site.view import SiteView

SPEC = ServiceSpec(
    "riskd", "riskd", Mode.ACTIVE_STANDBY, ("alpha", "beta"), settings={"burst": 5, "folder": "a"},
    restart=("folder",),
)  # fmt: skip
AT_NS = 1_700_000_000_000_000_000


def revision(number: int, **document: Any) -> ConfigRevision:
    return ConfigRevision("riskd", number, document, "set", "ann", "why", AT_NS, f"config-set-{number}")


def status(host: str, in_force: int, refused: str = "") -> InstanceStatus:
    return InstanceStatus(
        f"riskd-{host}-1", "riskd", "riskd", host, 7, "running", None, "active", 0, "passing", "", True, 1, 0,
        (), "other", {}, "1", in_force, config_refused=refused,
    )  # fmt: skip


def view(config: ServiceConfig | None = None, **more: Any) -> SiteView:
    hosts = {
        host: HostRecord(host, "h", "http://h", "", "boot", AT_NS, instances=(status(host, number),))
        for host, number in (("alpha", 3), ("beta", 2))
    }
    configs = {} if config is None else {"riskd": config}
    return replace(SiteView("lab", specs={"riskd": SPEC}, hosts=hosts, configs=configs), **more)


THREE = ServiceConfig(
    CurrentConfig("riskd", 3, "n"), None, {each: revision(each, burst=each, folder="a") for each in (1, 2, 3)}
)


def test_a_service_that_was_never_changed_has_what_services_yml_says_as_revision_1() -> None:
    found = config_document.service(view(), "riskd")
    assert (found["revision"], found["document"], found["kind"]) == (1, SPEC.settings, "services_file")
    assert [row["revision"] for row in config_document.history(view(), "riskd")] == [1]
    assert config_document.base(view(), "riskd", 1) == 1


def test_what_is_wanted_is_beside_what_is_in_force_and_what_restarts() -> None:
    found = config_document.service(view(THREE), "riskd")
    assert list(found)[:4] == ["service", "revision", "document", "in_force"]
    assert (found["revision"], found["document"]["burst"], found["actor"]) == (3, 3, "ann")
    assert found["in_force"] == {"riskd-alpha-1": 3, "riskd-beta-1": 2}
    assert [(row["id"], row["wanted"]) for row in found["instances"]] == [
        ("riskd-alpha-1", 3),
        ("riskd-beta-1", 3),
    ]
    assert (found["restart"], found["changes_live"]) == (["folder"], True)
    old = config_document.service(view(THREE), "riskd", 2)
    assert (old["revision"], old["document"]["burst"]) == (2, 2)


def test_an_instance_that_no_agent_reports_is_unknown_and_has_nothing_in_force() -> None:
    seen = view(THREE)
    found = config_document.service(view(THREE, hosts={"alpha": seen.hosts["alpha"]}), "riskd")
    assert found["in_force"] == {"riskd-alpha-1": 3}
    assert (found["instances"][1]["id"], found["instances"][1]["state"]) == ("riskd-beta-1", "unknown")


def test_of_a_spec_of_an_earlier_release_every_setting_restarts() -> None:
    found = config_document.service(view(specs={"riskd": replace(SPEC, restart=None)}), "riskd")
    assert (found["restart"], found["changes_live"]) == (["burst", "folder"], False)


def test_in_a_rollout_its_instances_want_its_revision_and_the_others_do_not() -> None:
    rollout = RolloutRecord("riskd", 3, 2, "config-rollout-1", "ann", "why", AT_NS, ("riskd-beta-1",))
    config = replace(THREE, current=CurrentConfig("riskd", 2, "n"), rollout=rollout)
    found = config_document.service(view(config), "riskd")
    assert (found["revision"], found["rollout"]["revision"], found["rollout"]["stage"]) == (2, 3, "canary")
    assert {row["id"]: row["wanted"] for row in found["instances"]} == {"riskd-alpha-1": 2, "riskd-beta-1": 3}
    rows = config_document.history(view(config), "riskd")
    assert [row["taken_back"] for row in rows] == [False, False, False], "it goes on"


def test_a_revision_that_was_taken_back_is_no_base_of_the_next_one() -> None:
    operation = records.OperationRecord(
        "config-set-2", "config-rollout", "riskd", "failed", "ann", "why", AT_NS, AT_NS
    )
    seen = view(THREE, operations=(operation,))
    rows = config_document.history(seen, "riskd")
    assert [(row["revision"], row["base"], row["taken_back"]) for row in rows] == [
        (1, None, False), (2, 1, True), (3, 1, False),
    ]  # fmt: skip
    assert config_document.base(seen, "riskd", 3) == 1
    behind = replace(THREE, current=CurrentConfig("riskd", 2, "n"))
    assert config_document.history(view(behind), "riskd")[2]["taken_back"], "above what is wanted, no rollout"


def test_a_document_that_cannot_be_read_is_none_and_its_revision_is_said() -> None:
    config = replace(THREE, revisions={1: THREE.revisions[1]})
    found = config_document.service(view(config), "riskd")
    assert (found["revision"], found["document"], found["actor"]) == (3, None, None)


def test_a_removed_service_has_its_history_and_no_document() -> None:
    gone = view(ServiceConfig(None, None, THREE.revisions), specs={})
    rows = config_document.history(gone, "riskd")
    assert [(row["revision"], row["taken_back"]) for row in rows] == [(1, False), (2, False), (3, False)]
    with pytest.raises(InvalidInput, match=r'service "riskd" is not in site lab \(there are none\)'):
        config_document.service(gone, "riskd")
    with pytest.raises(InvalidInput, match=r"there are riskd"):
        config_document.history(gone, "omsd")


def test_a_revision_that_is_not_kept_names_those_that_are() -> None:
    with pytest.raises(InvalidInput, match=r"found revision 9, wanted one that is kept \(1 to 3\)"):
        config_document.of_revision(view(THREE), "riskd", 9)


def test_a_key_of_another_client_has_nobody_who_set_it() -> None:
    seen = view(plain={"limit": PlainKey(5, "int"), "kill_switch": PlainKey(True, "bool", "ann", "x", AT_NS)})
    first, second = config_document.keys(seen)
    assert (first["key"], first["at"], second["actor"], second["at"]) == (
        "kill_switch", "2023-11-14T22:13:20.000Z", "", None,
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="there are /kill_switch, /limit"):
        config_document.key(seen, "other")
