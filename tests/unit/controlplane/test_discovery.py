"""Who serves a service, out of its registrations, its spec and its leader."""

from __future__ import annotations

import dataclasses

from controlplane import model, registry
from controlplane.model import Mode, Process, ServiceSpec
from controlplane.model.records import LeaderRecord, Registration
from controlplane.registry.discovery import serving as servings
from controlplane.store import Entry

BOOT = "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f"
ALPHA = Process("omsd-alpha-1", BOOT, 10, 100)
BETA = Process("omsd-beta-1", BOOT, 20, 100)
OMSD = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))
LED_BY_BETA = LeaderRecord(BETA, 1000, 3, BETA.instance, "n")


def registered(process: Process, service: str = "omsd", **changed: object) -> Registration:
    endpoints = {"orders": f"ipc:///run/{process.instance}"}
    made = Registration(service, process.instance, "alpha", process, endpoints, "", 0, 0, "")
    return dataclasses.replace(made, **changed)  # type: ignore[arg-type]


def test_in_a_group_one_leads_and_the_others_stand_by_with_its_epoch() -> None:
    found = servings.serving([registered(BETA), registered(ALPHA)], OMSD, LED_BY_BETA)
    assert [(each.instance, each.role, each.epoch) for each in found] == [
        ("omsd-alpha-1", "standby", 3),
        ("omsd-beta-1", "leader", 3),
    ]
    assert found[0].endpoints == {"orders": "ipc:///run/omsd-alpha-1"}


def test_a_leader_that_was_restarted_since_is_a_standby() -> None:
    again = dataclasses.replace(BETA, pid=21)
    assert [each.role for each in servings.serving([registered(again)], OMSD, LED_BY_BETA)] == ["standby"]


def test_without_roles_there_is_no_epoch_either() -> None:
    spec = dataclasses.replace(OMSD, mode=Mode.REPLICAS)
    found = servings.serving([registered(ALPHA)], spec, LED_BY_BETA)
    assert [(each.role, each.epoch) for each in found] == [("", 0)]


def test_a_service_without_a_spec_or_a_leader_is_found_without_roles() -> None:
    assert [each.role for each in servings.serving([registered(ALPHA)])] == [""]
    found = servings.serving([registered(ALPHA)], OMSD)
    assert [(each.role, each.epoch) for each in found] == [("standby", 0)]


def test_a_daemon_keeps_its_links_to_every_member_of_a_group_with_roles() -> None:
    """Who leads is decided elsewhere: a check that fails must not cut the leader off."""
    registrations = [registered(ALPHA, health="critical"), registered(BETA, maintenance="new disk")]
    found = servings.serving(registrations, OMSD, LED_BY_BETA)
    assert servings.linked(found) == found


def test_without_roles_a_daemon_is_linked_to_those_that_serve_or_to_all_when_none_does() -> None:
    well, ill = registered(ALPHA, health="warning"), registered(BETA, health="critical")
    away = dataclasses.replace(ill, health="passing", maintenance="new disk")
    assert [each.instance for each in servings.linked(servings.serving([well, ill]))] == [ALPHA.instance]
    assert [each.instance for each in servings.linked(servings.serving([well, away]))] == [ALPHA.instance]
    assert len(servings.linked(servings.serving([ill]))) == 1


def test_what_is_no_registration_is_left_out() -> None:
    values = [b"\xffnot ours", b"{}", b"[]", b"", model.encode(registered(ALPHA))]
    entries = [Entry(f"hft/lab/services/omsd/{n}", value, n) for n, value in enumerate(values, 1)]
    assert registry.decode(entries) == [registered(ALPHA)]
