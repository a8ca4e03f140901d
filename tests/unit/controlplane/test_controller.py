"""One controller is elected at a time; the record of a dead one of this boot costs no TTL."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from controlplane import daemon, model, store
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
