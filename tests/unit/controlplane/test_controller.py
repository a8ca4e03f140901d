"""One controller is elected at a time; the record of a dead one of this boot costs no TTL."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from controlplane import daemon, model, store
from controlplane.errors import Unavailable
from controlplane.model import records
from controlplane.site.follower import Follower


def controllers(name: str) -> tuple[daemon.Controller, daemon.Controller]:
    client = store.connect(f"memory://{name}")
    follower = Follower(client, store.Keys("lab"))
    one, other = daemon.Controller("lab", client, follower), daemon.Controller("lab", client, follower)
    # As if two processes: the parent of this test's is certainly alive and another.
    other.process = replace(other.process, pid=1, start_time=daemon.identity.start_time(1) or 0)
    one.url, other.url = "http://one", "http://other"
    return one, other


def test_the_second_controller_stands_by_while_the_first_lives() -> None:
    async def story() -> None:
        one, other = controllers("standby")
        lease = await one.client.lease(5)
        one.elected = await one.hold(lease)
        assert one.elected and await one.hold(lease)
        assert not await other.hold(await other.client.lease(5))
        await lease.revoke()
        assert await other.hold(await other.client.lease(5))

    asyncio.run(story())


def test_the_record_of_a_dead_process_of_this_boot_is_replaced_at_once() -> None:
    async def story() -> None:
        one, other = controllers("dead")
        dead = records.ControllerRecord("http://gone", replace(one.process, start_time=1), 0)
        await one.client.put(one.keys.controller(), model.encode(dead))
        assert await one.hold(await one.client.lease(5))
        elsewhere = records.ControllerRecord("http://far", replace(one.process, boot_id="another boot"), 0)
        await one.client.put(one.keys.controller(), model.encode(elsewhere))
        assert not await other.hold(await other.client.lease(5)), (
            "of another machine nothing is known: its lease decides"
        )

    asyncio.run(story())


SOON_S = 20.0


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(daemon.log, level, lambda event, **fields: lines.append(event))
    return lines


def test_without_descriptors_it_is_not_elected_says_so_once_and_campaigns_again(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "RENEW_EVERY_S", 0.001)
    one, _ = controllers("no descriptors")
    tries: list[int] = []

    async def none_left(ttl_s: float) -> Any:
        tries.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    async def until(what: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON_S):
            while not what():  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.001)

    async def story() -> None:
        campaign = asyncio.create_task(one.campaign())
        await until(lambda: one.elected)
        with monkeypatch.context() as patch:
            patch.setattr(one.client, "lease", none_left)
            patch.setattr(one, "hold", lambda lease: none_left(0))
            await until(lambda: len(tries) > 20)
            assert not one.elected and not campaign.done()
        await until(lambda: one.elected)
        campaign.cancel()
        await asyncio.wait({campaign})

    asyncio.run(story())
    assert said == ["controller.elected", "controller.not_elected", "controller.elected"]


def test_a_damaged_record_that_cannot_be_replaced_is_said_once(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        one, _ = controllers("damaged")
        await one.client.put(one.keys.controller(), b"rubbish")
        lease = await one.client.lease(5)

        async def full(*_: Any, **__: Any) -> Any:
            raise Unavailable("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(one.client, "put", full)
            for _ in range(20):
                with pytest.raises(Unavailable):
                    await one.hold(lease)
        assert said == ["controller.damaged"]
        assert await one.hold(lease)

    asyncio.run(story())
