"""The alarms about the store's cluster: raised while a trouble is seen, cleared when it is not."""

from __future__ import annotations

from agents import store_watch
from agents.alarms import Alarms
from controlplane.clock import FakeClock
from controlplane.site.store_troubles import Trouble

FULL = Trouble("store.full", "critical", "no room")
NEW = Trouble("store.of_tomorrow", "warning", "a trouble that this file has not heard of")


def test_whatever_trouble_is_over_is_cleared_and_the_others_stand() -> None:
    alarms = Alarms("agent-h", lambda *given, **fields: None, FakeClock())
    standing: set[str] = set()
    for found in ([FULL], [FULL, NEW], [NEW], []):
        standing = store_watch.settle(alarms, standing, found)
        assert {each.id for each in alarms.standing()} == standing == {each.id for each in found}
