"""`hftctl status -o json` from records: the fields word for word, and what counts as healthy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from controlplane.model import Mode, Process, ServiceSpec, records
from controlplane.model.config import PlainKey, ServiceConfig
from controlplane.model.observed import Alarm, BreakerStatus, EndedCounters, HostRecord, InstanceStatus
from controlplane.model.records import Registration
from controlplane.model.specs import Tombstone
from controlplane.site import document, histogram, last_heard, look, status
from controlplane.store import Health

NOW_NS = 1_700_000_000_000_000_000
HEALTH = Health("etcd", ("127.0.0.1:2379",), True, "3.5.1", 0.4)
OMSD = ServiceSpec("omsd", "omsd", Mode.ACTIVE_STANDBY, ("alpha", "beta"))
BOOKD = ServiceSpec("bookd", "bookd", Mode.SINGLETON, ("alpha",))


@dataclass
class Site:
    site: str = "lab"
    specs: dict[str, ServiceSpec] = field(default_factory=dict)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    registrations: dict[str, Registration] = field(default_factory=dict)
    leaders: dict[str, records.LeaderRecord] = field(default_factory=dict)
    electable: dict[str, records.ElectableRecord] = field(default_factory=dict)
    operations: list[records.OperationRecord] = field(default_factory=list)
    paused: dict[str, Any] | None = None
    controller_url: str | None = "http://127.0.0.1:1"
    controller_alarms: tuple[Alarm, ...] = ()
    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    spec_faults: dict[str, str] = field(default_factory=dict)
    configs: dict[str, ServiceConfig] = field(default_factory=dict)
    plain: dict[str, PlainKey] = field(default_factory=dict)


def observed(instance: str, **more: Any) -> InstanceStatus:
    service, host, _ = instance.rsplit("-", 2)
    plain: dict[str, Any] = {
        "id": instance,
        "service": service,
        "daemon": service,
        "host": host,
        "pid": 7,
        "state": "running",
        "role": None,
        "phase": "standby",
        "epoch": 0,
        "health": "passing",
        "reason": "",
        "ready": True,
        "started_ns": NOW_NS - 5_000_000_000,
        "restarts": 0,
        "cpus": (),
        "sched": "other",
        "endpoints": {"tops": "ipc:///r/x"},
        "version": "1",
        "config_revision": 1,
        "spec_revision": 3,
    }
    return InstanceStatus(**plain | more)


def host(
    name: str, *instances: InstanceStatus, age_ms: int = 100, alarms: tuple[Alarm, ...] = ()
) -> HostRecord:
    return HostRecord(
        name,
        "127.0.0.1",
        "http://127.0.0.1:2",
        "",
        "b",
        NOW_NS - age_ms * 1_000_000,
        instances=instances,
        alarms=alarms,
    )


def led_by(instance: str | None, epoch: int = 4) -> records.LeaderRecord:
    return records.LeaderRecord(Process(instance, "b", 7, 1) if instance else None, 1, epoch, instance, "n")


def may_take_over(*instances: str) -> records.ElectableRecord:
    return records.ElectableRecord(tuple(Process(each, "b", 8, 1) for each in instances), 4)


LEADER = observed("omsd-alpha-1", role="leader", phase="active")


def floor() -> Site:
    return Site(
        specs={"omsd": OMSD, "bookd": BOOKD},
        hosts={
            "alpha": host("alpha", LEADER, observed("bookd-alpha-1")),
            "beta": host("beta", observed("omsd-beta-1", role="standby")),
        },
        leaders={"omsd": led_by("omsd-alpha-1")},
        electable={"omsd": may_take_over("omsd-beta-1")},
    )


def build(site: Site, **more: Any) -> dict[str, Any]:
    built = status.build(site, status.Now(NOW_NS, more.pop("store", HEALTH), {"omsd": 900}, **more))
    assert document.decode(document.encode(built)) == built
    plain: dict[str, Any] = msgspec.json.decode(document.encode(built))
    return plain


def plain_flow(*counted: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(status.flow(*counted))
    return plain


def why_not(found: dict[str, Any]) -> list[str]:
    assert found["healthy"] is not bool(found["reasons"])
    reasons: list[str] = found["reasons"]
    return reasons


def service(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(s for s in found["services"] if s["name"] == name)


def test_the_fields_are_those_of_the_design_word_for_word() -> None:
    found = build(floor())
    assert list(found) == [
        "site", "healthy", "store", "controller", "paused", "hosts", "services", "breakers", "operations",
        "alarms", "flow", "reasons", "registered",
    ]  # fmt: skip
    assert list(found["store"]) == [
        "kind", "endpoints", "healthy", "version", "latency_ms",
        "leader", "members", "leader_changes", "size_bytes", "size_max_bytes", "reason",
    ]  # fmt: skip
    assert list(found["hosts"][0]) == [
        "name",
        "state",
        "address",
        "url",
        "last_seen_ms",
        "tuning",
        "instances",
    ]
    assert set(found["hosts"][0]["tuning"]) == {"verdict", "findings"}
    assert list(service(found, "omsd")) == [
        "name", "daemon", "mode", "desired", "running", "leader", "epoch", "lease_remaining_ms", "instances",
        "config_revision", "rollout",
    ]  # fmt: skip
    assert list(service(found, "omsd")["instances"][0]) == [
        "id", "host", "pid", "state", "role", "health", "reason", "ready", "uptime_s", "restarts", "cpus",
        "sched", "endpoints", "version",
        "config_revision", "crashes", "registry", "maintenance",
        "spec_revision", "config_wanted", "config_refused", "config_seen_ms",
    ]  # fmt: skip
    assert list(found["flow"]) == [
        "messages", "messages_per_s", "lost", "gaps", "orders", "fills", "rejects", "stale_token_refusals",
        "tick_to_order_us", "order_to_ack_us",
    ]  # fmt: skip
    assert list(found["flow"]["tick_to_order_us"]) == ["p50", "p99", "p99_9"]


def test_a_floor_where_all_is_ready_and_led_is_healthy() -> None:
    found = build(floor())
    assert found["healthy"]
    omsd = service(found, "omsd")
    assert (omsd["leader"], omsd["epoch"], omsd["lease_remaining_ms"]) == (
        "omsd-alpha-1", 4, 900,
    )  # fmt: skip
    assert service(found, "bookd")["leader"] is None
    assert why_not(found) == []


@pytest.mark.parametrize(("severity", "healthy"), [("critical", False), ("warning", True), ("info", True)])
def test_a_critical_alarm_is_a_reason_and_a_warning_is_none(severity: str, healthy: bool) -> None:
    site = floor()
    site.hosts["beta"] = host(
        "beta",
        observed("omsd-beta-1"),
        alarms=(Alarm("keeper.down", severity, "agent-beta", "the keeper has ended", NOW_NS),),
    )
    found = build(site)
    assert found["healthy"] is healthy
    assert found["reasons"] == ([] if healthy else ["agent-beta: the keeper has ended"])
    assert found["alarms"] == [
        {
            "id": "keeper.down",
            "severity": severity,
            "subject": "agent-beta",
            "text": "the keeper has ended",
            "since": "2023-11-14T22:13:20.000Z",
        }
    ]


def test_a_reason_names_its_subject_once() -> None:
    site = floor()
    lost = Alarm("book:spot:X", "critical", "spot:X", "spot:X: its book is not in step", NOW_NS)
    site.hosts["beta"] = host("beta", observed("omsd-beta-1"), alarms=(lost,))
    assert why_not(build(site)) == ["spot:X: its book is not in step"]


def test_one_instance_not_ready_a_group_not_led_or_a_store_away_is_not_healthy() -> None:
    not_ready = floor()
    not_ready.hosts["alpha"] = host(
        "alpha",
        LEADER,
        observed("bookd-alpha-1", ready=False, health="warning", reason="gap"),
    )
    not_led = floor()
    not_led.leaders["omsd"] = led_by(None)
    for found, why in (
        (build(not_ready), "bookd-alpha-1: running, warning: gap"),
        (build(not_led), "omsd: no instance leads"),
        (build(floor(), store=replace(HEALTH, healthy=False)), "the store does not answer"),
    ):
        assert not found["healthy"]
        assert why_not(found) == [why]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"controller_url": None},
            "no controller is elected: hft-controld is dead, hung, or cut off from the store; failover and "
            "trading do without it: `hftctl logs controld`",
        ),
        (
            {"electable": {}},
            "omsd: no standby can take over from omsd-alpha-1: `hftctl logs omsd-beta-1` says why",
        ),
        (
            {"electable": {"omsd": may_take_over("omsd-alpha-1")}},
            "omsd: no standby can take over from omsd-alpha-1: `hftctl logs omsd-beta-1` says why",
        ),
        (
            {"electable": {"omsd": may_take_over("omsd-gone-1")}},
            "omsd: no standby can take over from omsd-alpha-1: `hftctl logs omsd-beta-1` says why",
        ),
    ],
    ids=["controller", "nobody electable", "the leader alone", "one that is none of the service"],
)
def test_what_could_not_take_over_is_a_reason(change: dict[str, Any], why: str) -> None:
    assert why_not(build(replace(floor(), **change))) == [why]


def test_a_leader_is_a_reason_until_it_is_active() -> None:
    for phase in ("fencing", "reconciling", "standby"):
        site = floor()
        leader = observed("omsd-alpha-1", role="leader", phase=phase)
        site.hosts["alpha"] = host("alpha", leader, observed("bookd-alpha-1"))
        assert why_not(build(site)) == [f"omsd: omsd-alpha-1 leads and is not active yet ({phase})"]


def test_a_group_of_one_needs_no_standby() -> None:
    site = floor()
    site.specs["omsd"] = replace(OMSD, hosts=("alpha",))
    site.hosts["beta"], site.electable = host("beta"), {}
    assert why_not(build(site)) == []


def test_only_the_leader_of_the_group_is_called_so() -> None:
    """One that was deposed and does not know it yet still says leader itself."""
    site = floor()
    site.hosts["beta"] = host("beta", observed("omsd-beta-1", role="leader", phase="active"))
    rows = service(build(site), "omsd")["instances"]
    assert [row["role"] for row in rows] == ["leader", "standby"]
    site.leaders["omsd"] = led_by(None)
    assert {row["role"] for row in service(build(site), "omsd")["instances"]} == {"standby"}


def test_the_rate_of_a_feed_of_which_nothing_is_said_is_not_known() -> None:
    said, silent = observed("marketd-alpha-1", rates={"messages": 9.0}), observed("marketd-beta-1")
    assert plain_flow([said])["messages_per_s"] == 9.0
    assert plain_flow([said, silent])["messages_per_s"] is None
    assert plain_flow([])["messages_per_s"] is None


def test_of_a_feed_whose_agent_is_silent_or_gone_the_totals_stay_and_the_rate_is_not_known() -> None:
    site = floor()
    site.specs["marketd"] = ServiceSpec("marketd", "marketd", Mode.REPLICAS, ("alpha", "beta"))
    feeds = {
        name: observed(f"marketd-{name}-1", rates={"messages": 9.0}, counters={"messages": 5})
        for name in ("alpha", "beta")
    }
    site.hosts = {name: host(name, feed) for name, feed in feeds.items()}
    assert build(site)["flow"]["messages_per_s"] == 18.0
    flow = build(site, silent_ms={"beta": 3500})["flow"]
    assert (flow["messages"], flow["messages_per_s"]) == (10, None)
    heard = last_heard.LastHeard()
    assert heard.look(site.hosts) == ()
    beta = site.hosts.pop("beta")
    flow = build(site, gone=heard.look(site.hosts))["flow"]
    assert (flow["messages"], flow["messages_per_s"]) == (10, None)
    site.hosts["beta"] = beta
    flow = build(site, gone=heard.look(site.hosts))["flow"]
    assert flow["messages"] == 10, "counted once when it is back"


def test_restarts_count_every_start_and_crashes_those_that_nobody_asked_for() -> None:
    site = floor()
    site.hosts["alpha"] = host("alpha", LEADER, observed("bookd-alpha-1", restarts=3, crashes=1))
    (row,) = service(build(site), "bookd")["instances"]
    assert (row["restarts"], row["crashes"]) == (3, 1)


def test_a_service_whose_spec_is_damaged_or_gone_is_not_healthy_though_it_runs() -> None:
    damaged = floor()
    damaged.spec_faults = {"bookd": "its spec does not decode: Input data was truncated"}
    assert why_not(build(damaged)) == ["bookd: its spec does not decode: Input data was truncated"]
    gone = floor()
    del gone.specs["bookd"]
    assert why_not(build(gone)) == ["bookd: alpha runs it, and no spec of it is in the store"]
    gone.tombstones["bookd"] = Tombstone("ann", "why", "2026-01-01T00:00:00.000Z", ("alpha",))
    assert why_not(build(gone)) == []


def test_a_lease_that_ran_out_leads_nobody() -> None:
    found = status.build(floor(), status.Now(NOW_NS, HEALTH, {"omsd": 0}))
    assert look.service(found, "omsd").leader is None
    assert not found.healthy


def test_an_agent_that_is_silent_leaves_its_instances_shown_as_last_heard_of() -> None:
    site = floor()
    site.hosts["beta"] = host("beta", observed("omsd-beta-1"))
    found = build(site, silent_ms={"alpha": 100, "beta": 5000})
    standby = service(found, "omsd")["instances"][1]
    assert (standby["health"], standby["reason"], standby["pid"]) == (
        "warning",
        "agent of beta silent for 5 s",
        7,
    )
    assert (found["hosts"][1]["state"], found["hosts"][1]["last_seen_ms"]) == ("silent", 5000)
    silent = "agent of beta silent for 5 s: it is dead, hung, or cut off from the store"
    assert [reason.startswith(silent) for reason in why_not(found)] == [True], "one, and not one a row"


def test_what_was_wrong_before_its_agent_fell_silent_stays_a_reason() -> None:
    site = floor()
    broken = observed("omsd-beta-1", health="critical", reason="its disk is full", ready=False)
    site.hosts["beta"] = host("beta", broken)
    assert [reason.partition(":")[0] for reason in why_not(build(site, silent_ms={"beta": 5000}))] == [
        "agent of beta silent for 5 s",
        "omsd-beta-1",
    ]


@pytest.mark.parametrize("ahead_ms", [3_600_000, -3_600_000])
def test_a_host_whose_clock_is_an_hour_off_is_neither_silent_nor_up_for_an_hour_more(ahead_ms: int) -> None:
    site = floor()
    its_now_ns = NOW_NS + ahead_ms * 1_000_000
    started = observed("omsd-beta-1", role="standby", started_ns=its_now_ns - 20 * 10**9)
    site.hosts["beta"] = host("beta", started, age_ms=-ahead_ms)
    found = build(site, silent_ms={"alpha": 0, "beta": 500})
    assert found["healthy"] and found["hosts"][1]["state"] == "up"
    assert service(found, "omsd")["instances"][1]["uptime_s"] == 20.5


def test_a_host_that_has_vanished_is_down_and_its_registered_instances_keep_pid_and_endpoints() -> None:
    site = floor()
    del site.hosts["beta"]
    beta = Process("omsd-beta-1", "b", 99, 1)
    site.registrations["omsd-beta-1"] = Registration(
        "omsd", "omsd-beta-1", "beta", beta, {"replica": "ipc:///r/y"}, "127.0.0.1", 1, 0, "1"
    )
    found = build(site)
    standby = service(found, "omsd")["instances"][1]
    assert (standby["state"], standby["pid"], standby["endpoints"]) == (
        "unknown",
        99,
        {"replica": "ipc:///r/y"},
    )
    assert next(h for h in found["hosts"] if h["name"] == "beta")["state"] == "down"
    assert [reason.partition(":")[0] for reason in why_not(found)] == ["no agent of beta reports"]


def test_an_instance_that_is_no_longer_desired_is_shown_and_does_not_count() -> None:
    site = floor()
    site.hosts["beta"] = host(
        "beta",
        observed("omsd-beta-1"),
        observed("bookd-beta-1", state="stopping", ready=False, health="warning"),
    )
    found = build(site)
    assert [instance["id"] for instance in service(found, "bookd")["instances"]] == [
        "bookd-alpha-1",
        "bookd-beta-1",
    ]
    assert service(found, "bookd")["desired"] == 1
    assert found["healthy"]


def test_an_empty_site_is_not_healthy() -> None:
    found = build(Site())
    assert not found["healthy"]
    assert why_not(found) == ["no services are applied"]


def test_the_flow_takes_each_count_from_the_daemon_that_owns_it() -> None:
    ticks, acks = histogram.Histogram(), histogram.Histogram()
    for value_us in range(1, 101):
        ticks.record(value_us * 1000)
    acks.record(2_000_000)
    found = plain_flow(
        [
            observed("marketd-alpha-1", counters={"messages": 100, "gaps": 9}, rates={"messages": 12.34}),
            observed(
                "bookd-alpha-1", counters={"messages": 100, "gaps": 2, "lost": 1}, rates={"messages": 12.0}
            ),
            observed(
                "omsd-alpha-1",
                counters={"orders": 5, "fills": 2, "rejects": 1, "stale_token_refusals": 1},
                histograms={"order_to_ack": acks.counts},
            ),
            observed("omsd-beta-1", counters={"orders": 7}),
            observed(
                "execd-alpha-1",
                counters={"stale_token_refusals": 2, "orders": 12},
                histograms={"tick_to_order": ticks.counts},
            ),
        ]
    )
    wanted = {
        "messages": 100, "messages_per_s": 12.3, "gaps": 2, "lost": 1, "orders": 12, "fills": 2,
        "rejects": 1, "stale_token_refusals": 3,
    }  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    assert 50 <= found["tick_to_order_us"]["p50"] <= 50 * 1.0625
    assert 2000 <= found["order_to_ack_us"]["p99_9"] <= 2000 * 1.0625


def test_the_flow_counts_on_where_ended_processes_stopped() -> None:
    """A new process counts from zero; a leader that died and a service that moved away had orders all the
    same.
    """
    acks = histogram.Histogram()
    acks.record(2_000_000)
    site = floor()
    ended_counters = (
        EndedCounters("omsd", {"orders": 5, "stale_token_refusals": 1}, {"order_to_ack": acks.counts}),
        EndedCounters("bookd", {"gaps": 2, "orders": 9}, {}),
    )
    site.hosts["alpha"] = replace(
        host("alpha", observed("omsd-alpha-1", counters={"orders": 1})), ended_counters=ended_counters
    )
    site.hosts["beta"] = host("beta", observed("omsd-beta-1", counters={"orders": 3}))
    flow = build(site)["flow"]
    assert (flow["orders"], flow["gaps"], flow["stale_token_refusals"]) == (9, 2, 1)
    assert flow["order_to_ack_us"]["p50"] is not None


def test_percentiles_of_nothing_are_null() -> None:
    assert plain_flow([])["tick_to_order_us"] == {"p50": None, "p99": None, "p99_9": None}


def test_the_newest_operations_come_first_and_are_bounded() -> None:
    site = floor()
    site.operations = [
        records.OperationRecord(f"op-{n}", "failover", "omsd", "succeeded", "ann", "drill", n)
        for n in range(50)
    ]
    found = build(site)["operations"]
    assert len(found) == status.OPERATIONS_MAX
    assert found[0] == {
        "id": "op-49",
        "kind": "failover",
        "state": "succeeded",
        "actor": "ann",
        "reason": "drill",
    }


def test_the_breakers_of_every_instance_are_rows() -> None:
    shut = BreakerStatus("omsd.execd", "open", False, "5 failures in a row", NOW_NS, 9, 5, 1, 2)
    forced = BreakerStatus("execd.simd", "forced_open", True, "venue asked", 0, 3, 0, 0, 7)
    site = Site(
        hosts={
            "beta": host("beta", observed("omsd-beta-1", breakers=(shut,))),
            "alpha": host("alpha", observed("execd-alpha-1", breakers=(forced,))),
        }
    )
    rows = [msgspec.to_builtins(row) for row in status.build(site, status.Now(NOW_NS, HEALTH)).breakers]
    assert rows == [
        {
            "name": "execd.simd", "host": "alpha", "state": "forced_open", "instance": "execd-alpha-1",
            "forced": True, "reason": "venue asked", "until": None,
            "calls": 3, "failures": 0, "slow": 0, "refused": 7,
        },
        {
            "name": "omsd.execd", "host": "beta", "state": "open", "instance": "omsd-beta-1",
            "forced": False, "reason": "5 failures in a row", "until": "2023-11-14T22:13:20.000Z",
            "calls": 9, "failures": 5, "slow": 1, "refused": 2,
        },
    ]  # fmt: skip
