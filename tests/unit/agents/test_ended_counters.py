"""Counters and histograms of ended processes, summed by daemon."""

from __future__ import annotations

from agents import ended_counters
from controlplane import model
from controlplane.model.observed import EndedCounters, HostRecord
from controlplane.site import histogram


def test_each_ended_process_is_added_to_those_before_it() -> None:
    ledger = ended_counters.Ledger()
    assert ledger.all() == ()
    acks = histogram.Histogram()
    acks.record(1_000)
    ledger.take("omsd", {"orders": 5, "fills": 1}, {"order_to_ack": acks.counts})
    ledger.take("omsd", {"orders": 2}, {"order_to_ack": acks.counts})
    ledger.take("bookd", {"gaps": 1}, {})
    bookd, omsd = ledger.all()
    assert bookd == EndedCounters("bookd", {"gaps": 1}, {})
    assert omsd.counters == {"orders": 7, "fills": 1}
    assert omsd.histograms == {"order_to_ack": {index: 2 * count for index, count in acks.counts.items()}}


def test_it_travels_with_the_host_record() -> None:
    ledger = ended_counters.Ledger()
    ledger.take("omsd", {"orders": 5}, {"order_to_ack": {17: 3}})
    record = HostRecord("alpha", "127.0.0.1", "", "", "b", 1, ended_counters=ledger.all())
    assert model.decode(HostRecord, model.encode(record)) == record
