"""The alarms about the store's cluster: raised while a trouble is seen, cleared when it is not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from agents import settings, store_watch
from agents.agent import Agent
from agents.alarms import Alarms
from controlplane.clock import FakeClock
from controlplane.errors import Unavailable
from controlplane.site.store_troubles import Trouble
from controlplane.store import Health, Store
from controlplane.store.base import Condition

FULL = Trouble("store.full", "critical", "no room")
NEW = Trouble("store.of_tomorrow", "warning", "a trouble that this file has not heard of")


def test_whatever_trouble_is_over_is_cleared_and_the_others_stand() -> None:
    alarms = Alarms("agent-h", lambda *given, **fields: None, FakeClock())
    standing: set[str] = set()
    for found in ([FULL], [FULL, NEW], [NEW], []):
        standing = store_watch.settle(alarms, standing, found)
        assert {each.id for each in alarms.standing()} == standing == {each.id for each in found}


class Deaf:
    """A store that said once what is wrong with its cluster, and then has no time to say it again."""

    def __init__(self) -> None:
        self.asked = 0
        self.enough = asyncio.Event()

    async def health(self) -> Health:
        return Health("etcd", ("one",), False, "3.7.3", None, "no answer")

    async def condition(self) -> Condition:
        self.asked += 1
        if self.asked > 3:
            self.enough.set()
        if self.asked > 1:
            raise Unavailable("no answer")
        return Condition((), 1, 1, faults=("alarm NOSPACE",))


@pytest.mark.anyio
async def test_what_a_store_said_is_wrong_stands_while_it_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "STATUS_EVERY_S", 0.01)
    alarms, deaf = Alarms("agent-h", lambda *given, **fields: None, FakeClock()), Deaf()
    agent = SimpleNamespace(
        alarms=alarms,
        store_health=None,
        follower=SimpleNamespace(age_s=lambda: 0.0),
        look_at_configuration=lambda: None,
    )
    looking = asyncio.create_task(store_watch.ask_store_health(cast(Agent, agent), cast(Store, deaf)))
    await deaf.enough.wait()
    looking.cancel()
    assert "store.full" in {each.id for each in alarms.standing()}
