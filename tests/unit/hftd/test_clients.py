"""Whose link is whose: the strategy says who it is, and nobody guesses it from an instance id."""

from __future__ import annotations

from hftd.engine.orders.clients import Clients

SILENT_NS = 5_000


def test_services_whose_names_begin_alike_are_told_apart() -> None:
    clients = Clients(SILENT_NS)
    clients.hello("strategy-mm", "strategy-mm-alpha-1", b"mm", 0)
    clients.hello("strategy", "strategy-mm-1", b"plain", 0)
    assert (clients.link_of("strategy"), clients.link_of("strategy-mm")) == (b"plain", b"mm")
    assert clients.link_of("strategy-m") is None


def test_a_service_is_spoken_for_by_the_link_that_said_hello_last() -> None:
    clients = Clients(SILENT_NS)
    assert clients.hello("strategy-mm", "strategy-mm-alpha-1", b"first", 0) is None
    assert clients.hello("strategy-mm", "strategy-mm-alpha-1", b"first", 1) is None, "the same process"
    before = clients.hello("strategy-mm", "strategy-mm-beta-1", b"second", 2)
    assert before is not None and (before.instance, before.link) == ("strategy-mm-alpha-1", b"first")
    assert clients.link_of("strategy-mm") == b"second"


def test_a_silent_one_is_forgotten_once_and_may_come_back() -> None:
    clients = Clients(SILENT_NS)
    clients.hello("a", "a-alpha-1", b"a", 0)
    clients.hello("b", "b-alpha-1", b"b", 1)
    assert clients.forget_silent(SILENT_NS) == []
    assert [gone.service for gone in clients.forget_silent(SILENT_NS + 1)] == ["a"]
    assert clients.forget_silent(SILENT_NS + 1) == [] and clients.link_of("a") is None
    assert clients.hello("a", "a-alpha-1", b"a", SILENT_NS + 2) is None and clients.link_of("a") == b"a"
