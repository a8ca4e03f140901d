"""The metrics page, read back by prometheus_client's own parser."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from agents import metrics
from controlplane.model.observed import InstanceStatus
from controlplane.site import histogram

OWN = metrics.Own("alpha", True, 0.1, 2, 3, 4)


def observed(**more: Any) -> InstanceStatus:
    plain: dict[str, Any] = {
        "id": "bookd-alpha-1",
        "service": "bookd",
        "daemon": "bookd",
        "host": "alpha",
        "pid": 7,
        "state": "running",
        "role": None,
        "phase": "standby",
        "epoch": 0,
        "health": "passing",
        "reason": "",
        "ready": True,
        "started_ns": 1_700_000_000_000_000_000,
        "restarts": 1,
        "cpus": (),
        "sched": "other",
        "endpoints": {},
        "version": "1",
        "config_revision": 1,
    }
    return InstanceStatus(**plain | more)


def page(
    *instances: InstanceStatus, gauges: dict[str, dict[str, float]] | None = None
) -> dict[str, list[Any]]:
    text = metrics.text(instances, gauges or {}, OWN).decode()
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


def test_counters_and_gauges_carry_instance_service_and_host() -> None:
    found = page(observed(counters={"gaps": 3}), gauges={"bookd-alpha-1": {"depth": 12.5}})
    labels = {"instance": "bookd-alpha-1", "service": "bookd", "host": "alpha"}
    assert [(s.name, s.labels, s.value) for s in found["hft_gaps"]] == [("hft_gaps_total", labels, 3.0)]
    assert [(s.name, s.labels, s.value) for s in found["hft_depth"]] == [("hft_depth", labels, 12.5)]


def test_the_revision_in_force_stands_beside_the_wanted_one() -> None:
    found = page(observed(config_revision=3), gauges={"bookd-alpha-1": {"config_wanted": 4.0}})
    assert [s.value for s in found["hft_config_revision"]] == [3.0]
    assert [s.value for s in found["hft_config_wanted"]] == [4.0]


def test_a_counter_of_two_instances_is_one_family() -> None:
    found = page(
        observed(counters={"gaps": 3}), observed(id="bookd-beta-1", host="beta", counters={"gaps": 4})
    )
    assert sorted(sample.value for sample in found["hft_gaps"]) == [3.0, 4.0]


def test_a_counters_own_labels_are_kept_and_odd_characters_made_fit() -> None:
    found = page(observed(counters={'refused{reason="price-collar"}': 5, "odd name": 1}))
    assert found["hft_refused"][0].labels["reason"] == "price-collar"
    assert found["hft_odd_name"][0].value == 1.0


def test_a_histogram_is_cumulative_in_seconds_and_ends_with_all_of_them() -> None:
    kept = histogram.Histogram()
    for value_ns in (1000, 1000, 50_000, 2_000_000):
        kept.record(value_ns)
    samples = page(observed(histograms={"tick_to_order": kept.counts}))["hft_tick_to_order_seconds"]
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    assert [count for _, count in buckets] == [2.0, 3.0, 4.0, 4.0]
    assert buckets == sorted(buckets)
    assert buckets[0][0] >= 1000 / 1e9
    assert buckets[-1] == (float("inf"), 4.0)
    count = next(s.value for s in samples if s.name.endswith("_count"))
    total_s = next(s.value for s in samples if s.name.endswith("_sum"))
    assert count == 4.0
    assert 0.002052 <= total_s <= 0.002052 * 1.0625


def test_the_agent_tells_of_itself_without_any_instance() -> None:
    found = page()
    assert found["hft_agent_store_reachable"][0].value == 1.0
    assert found["hft_agent_undecodable"][0].name == "hft_agent_undecodable_total"


def test_pings_that_were_not_believed_are_counted_by_why() -> None:
    own = metrics.Own("alpha", True, 0.0, 0, 0, 0, 0, {"forged": 3, "unasked": 1})
    text = metrics.text([], {}, own).decode()
    assert 'hft_agent_keeper_unauthenticated_total{host="alpha",kind="forged"} 3.0' in text
    assert 'hft_agent_keeper_unauthenticated_total{host="alpha",kind="unasked"} 1.0' in text
