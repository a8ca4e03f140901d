"""Prometheus text of the host: the daemons' counters, gauges and histograms with their instance as label, and
the agent's own.

Pure: InstanceStatus in, metric families out. Histograms travel as sparse log-linear buckets in ns
(controlplane/site/histogram.py); Prometheus gets them in seconds with cumulative `le` bounds, only the bounds
that were hit (a scrape of an idle daemon is short).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from controlplane.model.observed import InstanceStatus
from controlplane.site import histogram
from controlplane.store import Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = ("instance", "service", "host")
HEALTHS = ("passing", "warning", "critical")
_KEY = re.compile(r"(?P<name>[^{]+)(\{(?P<labels>.*)\})?")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_UNFIT = re.compile(r"[^a-zA-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Own:
    """What the agent says of itself."""

    host: str
    store_reachable: bool
    view_age_s: float
    undecodable: int
    disbelieved: int
    events_lost: int
    keeper_undecodable: int = 0
    keeper_unauthenticated: Mapping[str, int] = field(default_factory=dict)
    """By why (keeper/peers.py, KINDS)."""
    store: Health | None = None
    cache_compared: int = 0
    cache_repaired: Mapping[str, int] = field(default_factory=dict)
    """By kind of record (site/anti_entropy.py)."""


def text(
    instances: Sequence[InstanceStatus], gauges: Mapping[str, Mapping[str, float]], own: Own | None = None
) -> bytes:
    """The whole page; `gauges` are those of each instance by id. Without `own`, of the instances alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(instances, gauges, own))
    return generate_latest(registry)


class _Page(Collector):
    def __init__(
        self, instances: Sequence[InstanceStatus], gauges: Mapping[str, Mapping[str, float]], own: Own | None
    ) -> None:
        self.instances, self.gauges, self.own = instances, gauges, own

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for status in self.instances:
            who = (status.id, status.service, status.host)
            for name, value in _of_instance(status):
                _gauge(families, name, who, (), value)
            for key, count in status.counters.items():
                name, extra = split(key)
                family = families.setdefault(
                    f"counter {name}",
                    CounterMetricFamily(f"hft_{name}", f"{name} of the daemon", labels=None),
                )
                family.add_sample(f"hft_{name}_total", _labels(who, extra), count)
            for key, value in self.gauges.get(status.id, {}).items():
                name, extra = split(key)
                _gauge(families, name, who, extra, value)
            for key, counts in status.histograms.items():
                name, extra = split(key)
                _histogram(families, name, _labels(who, extra), counts)
        yield from families.values()
        if self.own is not None:
            yield from _of_agent(self.own)
            yield from _of_store(self.own)


def split(key: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Counter key `name{label="value"}` taken apart; characters that Prometheus does not take become
    underscores.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        return _UNFIT.sub("_", key), ()
    return _UNFIT.sub("_", found["name"]), tuple(_LABEL.findall(found["labels"] or ""))


def buckets_s(counts: Mapping[int, int]) -> list[tuple[str, float]]:
    """Cumulative (le in seconds, count), ending with +Inf."""
    cumulative, bounds = 0, []
    for index, count in sorted(counts.items()):
        cumulative += count
        bounds.append((repr(histogram.upper_ns(index) / 1e9), float(cumulative)))
    return [*bounds, ("+Inf", float(cumulative))]


def sum_s(counts: Mapping[int, int]) -> float:
    """From the buckets' upper bounds, so at most 6.25 % too high: the daemons do not keep a sum."""
    return sum(histogram.upper_ns(index) * count for index, count in counts.items()) / 1e9


def _labels(who: tuple[str, str, str], extra: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {**dict(extra), **dict(zip(LABELS, who, strict=True))}


def _gauge(
    families: dict[str, Metric],
    name: str,
    who: tuple[str, str, str],
    extra: Iterable[tuple[str, str]],
    value: float,
) -> None:
    family = families.setdefault(
        f"gauge {name}", GaugeMetricFamily(f"hft_{name}", f"{name} of the daemon", labels=None)
    )
    family.add_sample(f"hft_{name}", _labels(who, extra), value)


def _histogram(
    families: dict[str, Metric], name: str, labels: dict[str, str], counts: Mapping[int, int]
) -> None:
    full = f"hft_{name}_seconds"
    family = families.setdefault(
        f"histogram {name}", HistogramMetricFamily(full, f"{name} of the daemon", labels=None)
    )
    for bound, cumulative in buckets_s(counts):
        family.add_sample(f"{full}_bucket", {**labels, "le": bound}, cumulative)
    family.add_sample(f"{full}_count", labels, float(sum(counts.values())))
    family.add_sample(f"{full}_sum", labels, sum_s(counts))


def _of_instance(status: InstanceStatus) -> Iterator[tuple[str, float]]:
    yield "instance_up", float(status.pid is not None)
    yield "instance_ready", float(status.ready)
    yield "instance_health", float(HEALTHS.index(status.health))
    yield "instance_leads", float(status.role == "leader")
    yield "instance_epoch", float(status.epoch)
    yield "instance_restarts", float(status.restarts)
    yield "instance_crashes", float(status.crashes)
    yield "config_revision", float(status.config_revision)
    if status.started_ns:
        yield "instance_started_seconds", status.started_ns / 1e9


def _of_store(own: Own) -> Iterator[Metric]:
    health = own.store
    if health is None:
        return
    labels, condition = {"host": own.host}, health.condition
    found: list[tuple[str, float | None, str]] = [
        ("hft_store_healthy", float(health.healthy), "1 while a quorum answers the agent's reads"),
        ("hft_store_latency_seconds", _seconds(health.latency_ms), "Of the agent's last read"),
    ]
    if condition is not None:
        found += [
            ("hft_store_members", float(condition.size), "Voting members of the store's cluster"),
            ("hft_store_members_answering", float(condition.answering), "Those that answer"),
            ("hft_store_has_leader", float(bool(condition.leader)), "1 while its cluster has a leader"),
            ("hft_store_size_bytes", _float(condition.size_bytes), "Of the store's database"),
            (
                "hft_store_size_max_bytes",
                _float(condition.size_max_bytes),
                "At which it takes no more writes",
            ),
        ]
    for name, value, what in found:
        if value is not None:
            gauge = GaugeMetricFamily(name, what, labels=None)
            gauge.add_sample(name, labels, value)
            yield gauge
    changes = CounterMetricFamily(
        "hft_store_leader_changes", "Elections that the agent has seen", labels=None
    )
    changes.add_sample("hft_store_leader_changes_total", labels, float(health.leader_changes))
    yield changes


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1e3


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def _of_agent(own: Own) -> Iterator[Metric]:
    labels = {"host": own.host}
    for name, value, what in (
        (
            "hft_agent_store_reachable",
            float(own.store_reachable),
            "1 while the agent's watch of the store is alive",
        ),
        ("hft_agent_view_age_seconds", own.view_age_s, "Age of the agent's view of the site"),
    ):
        gauge = GaugeMetricFamily(name, what, labels=None)
        gauge.add_sample(name, labels, value)
        yield gauge
    for name, value, what in (
        (
            "hft_agent_undecodable",
            float(own.undecodable),
            "Messages from daemons and lines of the keeper that did not decode",
        ),
        (
            "hft_agent_keeper_undecodable",
            float(own.keeper_undecodable),
            "Lines, pings, addresses and looks at heartbeat pages that the host's keeper could not decode",
        ),
        (
            "hft_agent_disbelieved",
            float(own.disbelieved),
            "Messages of processes that are not the ones that run",
        ),
        ("hft_agent_events_lost", float(own.events_lost), "Event lines that the disk did not take"),
        (
            "hft_agent_cache_compared",
            float(own.cache_compared),
            "How often the view of the site was compared with the store",
        ),
    ):
        counter = CounterMetricFamily(name, what, labels=None)
        counter.add_sample(f"{name}_total", labels, value)
        yield counter
    pings = CounterMetricFamily(
        "hft_agent_keeper_unauthenticated",
        "Pings that the host's keeper did not believe, by why",
        labels=None,
    )
    for kind, count in own.keeper_unauthenticated.items():
        pings.add_sample("hft_agent_keeper_unauthenticated_total", {**labels, "kind": kind}, float(count))
    yield pings
    repaired = CounterMetricFamily(
        "hft_agent_cache_repaired",
        "Records of the view of the site that differed from the store and were mended, by kind",
        labels=None,
    )
    for kind in ("services", "answers", *sorted(own.cache_repaired.keys() - {"services", "answers"})):
        sample = {**labels, "kind": kind}
        mended = float(own.cache_repaired.get(kind, 0))
        repaired.add_sample("hft_agent_cache_repaired_total", sample, mended)
    yield repaired
