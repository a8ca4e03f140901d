"""One of a store's endpoints swallows packets (row 25), or one of its members is paused and comes back behind
the others (row 14), under keepers that lead: no lead is lost, nothing is decided on what is old.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from agents.keeper import protocol
from controlplane.errors import Unavailable
from controlplane.leadership import budget
from tests.support import keepers
from tests.support.keepers import Daemon, until
from tests.support.real_stores import RealStore, Server
from tests.support.store_proxy import StoreProxy, full_backlog
from tests.support.stores import SOON_S, put_until_done

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]

TAKEN_S = 5.0
"""From a leader's death to its successor: a hand-over, plus tries at the endpoint that is no good."""


# --- an endpoint that swallows packets ----------------------------------------------------------------------


async def _a_floor_over(folder: Path, real: RealStore, *endpoints: str) -> None:
    """Two keepers that have these endpoints: a lead is taken, kept, and handed over."""
    await real.wipe()
    clients = [real.connect(*endpoints) for _ in range(2)]
    async with keepers.floor(real.connect(), folder, budget.SAFE) as floor:
        first, second = await floor.pair(*clients)
        await keepers.steady(first, second, seconds=2.0)
        first.kill()
        await until(second.leads, "beta leads", TAKEN_S)
        assert not first.leads() and second.lease().epoch == 2
        for host in ("alpha", "beta"):
            await floor.kill_keeper(host)
    for client in clients:
        await client.close()


async def test_an_endpoint_that_takes_connections_and_never_answers_costs_nobody_a_lead(
    tmp_path: Path, real: RealStore
) -> None:
    async with StoreProxy(real.server.endpoint, silent=True) as proxy:
        await _a_floor_over(tmp_path, real, proxy.endpoint, real.server.endpoint)
        assert proxy.accepted_s


async def test_an_endpoint_that_drops_every_packet_costs_nobody_a_lead(
    tmp_path: Path, real: RealStore
) -> None:
    with full_backlog() as nowhere:
        await _a_floor_over(tmp_path, real, nowhere, real.server.endpoint)


async def test_an_endpoint_that_falls_silent_under_a_leader_costs_it_nothing(
    tmp_path: Path, real: RealStore
) -> None:
    """The one that every call and every watch is on."""
    await real.wipe()
    async with (
        StoreProxy(real.server.endpoint) as proxy,
        keepers.floor(real.connect(), tmp_path, budget.SAFE) as floor,
    ):
        client = real.connect(proxy.endpoint, real.server.endpoint)
        only = floor.daemon("alpha")
        alpha = await floor.keeper("alpha", client)
        alpha.apply(protocol.Table((only.entry(),)))
        await until(only.leads, "alpha leads")
        proxy.silent = True
        await keepers.steady(only, seconds=3.0)
        proxy.heal()
        await keepers.steady(only, seconds=1.0)
        await floor.kill_keeper("alpha")
        await client.close()


# --- a member that is paused --------------------------------------------------------------------------------


def _follower(real: RealStore) -> Server:
    leader = real.leading()
    return next(member for member in real.members if member is not leader)


def _in_front(real: RealStore, first: Server) -> list[str]:
    return [first.endpoint, *(each.endpoint for each in real.members if each is not first)]


async def _back(real: RealStore, member: Server, leader: Daemon, other: Daemon) -> None:
    """The member goes on. Consul 1.19 has no vote before the vote: a server that comes back asks for an
    election, which the others answer with one, and a lead may end in that second. Never two in any case.
    """
    member.resume()
    if real.kind == "etcd":
        await keepers.steady(leader, other, seconds=2.0)
        return

    def one_leads() -> bool:
        assert not (leader.leads() and other.leads()), "two leaders at once"
        return leader.leads() or other.leads()

    end_s = asyncio.get_running_loop().time() + 3.0
    while asyncio.get_running_loop().time() < end_s:
        one_leads()
        await asyncio.sleep(0.01)
    await until(one_leads, "somebody leads again")


async def test_a_paused_member_costs_its_clients_no_lead(tmp_path: Path, three: RealStore) -> None:
    """It is the one that both keepers speak to."""
    await three.wipe()
    member = await asyncio.to_thread(_follower, three)
    clients = [three.connect(*_in_front(three, member)) for _ in range(2)]
    async with keepers.floor(three.connect(), tmp_path, budget.SAFE) as floor:
        first, second = await floor.pair(*clients)
        member.pause()
        try:
            await keepers.steady(first, second, seconds=3.0)
            await _back(three, member, first, second)
        finally:
            member.resume()
        for host in ("alpha", "beta"):
            await floor.kill_keeper(host)
    for client in clients:
        await client.close()


async def test_a_keeper_whose_only_member_was_paused_takes_no_lead_on_what_it_missed(
    tmp_path: Path, three: RealStore
) -> None:
    """When the member goes on, what it shows first is older than a lease: the leader seems silent for that
    long, and is not.
    """
    await three.wipe()
    member = await asyncio.to_thread(_follower, three)
    others = [each.endpoint for each in three.members if each is not member]
    of_alpha, of_beta = three.connect(*others), three.connect(member.endpoint)
    async with keepers.floor(three.connect(*others), tmp_path, budget.SAFE) as floor:
        first, second = await floor.pair(of_alpha, of_beta)
        member.pause()
        try:
            await keepers.steady(first, second, seconds=4.0)
            await _back(three, member, first, second)
        finally:
            member.resume()
        for host in ("alpha", "beta"):
            await floor.kill_keeper(host)
    await of_alpha.close()
    await of_beta.close()


async def test_a_member_that_comes_back_behind_shows_no_old_value_and_no_older_snapshot(
    three: RealStore,
) -> None:
    await three.wipe()
    member = await asyncio.to_thread(_follower, three)
    writer = three.connect(*(each.endpoint for each in three.members if each is not member))
    reader = three.connect(member.endpoint)
    async with aclosing(reader.watch("hft/x/")) as watch:
        await put_until_done(writer, "hft/x/a", b"0")
        newest = int((await anext(watch)).entries.get("hft/x/a", None) is not None)
        for round_ in range(3):
            member.pause()
            last = 0
            for number in range(40):
                last = round_ * 40 + number + 1
                await put_until_done(writer, "hft/x/a", str(last).encode())
            member.resume()
            async with asyncio.timeout(SOON_S):
                while True:
                    try:
                        entry = await reader.get("hft/x/a")
                    except Unavailable:
                        await asyncio.sleep(0.01)
                        continue
                    assert entry is not None and int(entry.value) == last, "a value that is acknowledged"
                    break
                while newest < last:
                    found = int((await anext(watch)).entries["hft/x/a"].value)
                    assert found >= newest
                    newest = found
    for client in (writer, reader):
        await client.close()
