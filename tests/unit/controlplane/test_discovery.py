"""Who serves a service, out of a view of the site."""

from __future__ import annotations

import dataclasses

from controlplane import model, registry
from controlplane.model import Mode, Process, ServiceSpec
from controlplane.model.records import LeaderRecord, Registration
from controlplane.site.view import Registrations, SiteView, part_of
from controlplane.store import Entry

BOOT = "2b2c4548-65e0-4204-a2d3-e67fcbc4b98f"
ALPHA = Process("omsd-alpha-1", BOOT, 10, 100)
BETA = Process("omsd-beta-1", BOOT, 20, 100)
OMSD = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))
LED_BY_BETA = LeaderRecord(BETA, 1000, 3, BETA.instance, "n")


def registered(process: Process, service: str = "omsd") -> Registration:
    endpoints = {"orders": f"ipc:///run/{process.instance}"}
    return Registration(service, process.instance, "alpha", process, endpoints, "", 0, 0, "")


def site(*registrations: Registration, **tables: object) -> SiteView:
    by_service: dict[str, dict[int, dict[str, Registration]]] = {}
    for each in registrations:
        by_service.setdefault(each.service, {}).setdefault(part_of(each.instance), {})[each.instance] = each
    view = SiteView("lab", registrations=Registrations(by_service))
    return dataclasses.replace(view, **tables)  # type: ignore[arg-type]


def test_in_a_group_one_leads_and_the_others_stand_by_with_its_epoch() -> None:
    view = site(registered(BETA), registered(ALPHA), specs={"omsd": OMSD}, leaders={"omsd": LED_BY_BETA})
    assert [(each.instance, each.role, each.epoch) for each in registry.resolve(view, "omsd")] == [
        ("omsd-alpha-1", "standby", 3),
        ("omsd-beta-1", "leader", 3),
    ]
    assert registry.resolve(view, "omsd")[0].endpoints == {"orders": "ipc:///run/omsd-alpha-1"}


def test_a_leader_that_was_restarted_since_is_a_standby() -> None:
    again = dataclasses.replace(BETA, pid=21)
    view = site(registered(again), specs={"omsd": OMSD}, leaders={"omsd": LED_BY_BETA})
    assert [each.role for each in registry.resolve(view, "omsd")] == ["standby"]


def test_without_roles_there_is_no_epoch_either() -> None:
    spec = dataclasses.replace(OMSD, mode=Mode.REPLICAS)
    view = site(registered(ALPHA), specs={"omsd": spec}, leaders={"omsd": LED_BY_BETA})
    assert [(each.role, each.epoch) for each in registry.resolve(view, "omsd")] == [("", 0)]


def test_a_service_without_a_spec_or_a_leader_is_found_without_roles() -> None:
    assert [each.role for each in registry.resolve(site(registered(ALPHA)), "omsd")] == [""]
    waiting = site(registered(ALPHA), specs={"omsd": OMSD})
    assert [(each.role, each.epoch) for each in registry.resolve(waiting, "omsd")] == [("standby", 0)]


def test_other_services_are_not_found() -> None:
    assert registry.resolve(site(registered(ALPHA, "execd")), "omsd") == []


def test_what_is_no_registration_is_left_out() -> None:
    values = [b"\xffnot ours", b"{}", b"[]", b"", model.encode(registered(ALPHA))]
    entries = [Entry(f"hft/lab/services/omsd/{n}", value, n) for n, value in enumerate(values, 1)]
    assert registry.decode(entries) == [registered(ALPHA)]
