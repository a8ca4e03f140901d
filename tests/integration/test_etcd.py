"""The etcd client against servers that are killed, frozen, compacted, replaced and guarded by passwords.

Safety first in each: nothing lost, nothing twice, nothing called unapplied that was applied; the time it
takes second.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.request
from contextlib import aclosing
from pathlib import Path

import pytest

from controlplane import store
from controlplane.errors import Denied, HftctlError, Unavailable
from controlplane.settings import StoreSettings
from controlplane.store import Committed, Put, etcd
from tests.support import servers
from tests.support.stores import SOON_S, put_until_done, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]


async def test_no_acknowledged_write_is_lost_and_a_watch_misses_none_over_kills_of_the_server(
    server: servers.Server,
) -> None:
    """Each number is a key of its own: a watch that resumed one revision too late would lack one."""
    client, reader = store.connect(f"etcd://{server.endpoint}"), store.connect(f"etcd://{server.endpoint}")
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                await client.put(f"hft/n/{n:06d}", b"x")
                acknowledged.append(f"hft/n/{n:06d}")
            except Unavailable:
                await asyncio.sleep(0.01)

    async with aclosing(reader.watch("hft/n/")) as watch:
        writing = asyncio.create_task(write())
        snapshot = await anext(watch)
        for _ in range(3):
            seen = len(snapshot.entries)
            while len(snapshot.entries) < seen + 50:  # it goes on after each restart
                async with asyncio.timeout(SOON_S):
                    latest = await anext(watch)
                assert set(snapshot.entries) <= set(latest.entries)
                snapshot = latest
            server.kill()
            await asyncio.to_thread(server.start)
        stop.set()
        await writing
        await put_until_done(client, "hft/n/end", b"x")
        snapshot = await until(watch, "hft/n/end", b"x")
    assert len(acknowledged) > 100
    assert set(acknowledged) <= set(snapshot.entries)
    assert snapshot.entries == (await client.range("hft/n/")).entries
    await client.close()
    await reader.close()


async def test_a_compacted_watch_lists_again_and_misses_nothing(server: servers.Server) -> None:
    client, writer = etcd.EtcdStore([server.endpoint]), etcd.EtcdStore([server.endpoint])
    async with aclosing(client.watch("hft/")) as watch:
        await writer.put("hft/gone", b"1")
        await until(watch, "hft/gone", b"1")
        # While the watch has no connection: change, delete and forget the history in between.
        server.kill()
        await asyncio.to_thread(server.start)
        server.pause()
        waiting = asyncio.create_task(until(watch, "hft/new", b"1"))
        await asyncio.sleep(0)
        server.resume()
        await put_until_done(writer, "hft/between", b"1")
        await writer.delete("hft/gone")
        outcome = await writer.put("hft/new", b"1")
        assert isinstance(outcome, Committed)
        await writer.compact(outcome.revision)
        snapshot = await waiting
        assert set(snapshot.entries) == {"hft/between", "hft/new"}
        await writer.put("hft/after", b"1")
        await until(watch, "hft/after", b"1")
    await client.close()
    await writer.close()


async def test_a_watch_from_a_compacted_revision_lists_again(server: servers.Server) -> None:
    """The same without luck in timing: the follower is told to resume where there is nothing any more."""
    from controlplane.store.etcd import watch as watching

    client = etcd.EtcdStore([server.endpoint])
    for n in range(5):
        last = await client.put("hft/a", str(n).encode())
    assert isinstance(last, Committed)
    await client.compact(last.revision)
    watch = client.watch("hft/")
    follower = watching._Resumed(client, "hft/", watch._latest)
    await follower._list()
    assert (await watch._latest.next()).changed == {"hft/a"}
    follower._revision = 2
    running = asyncio.create_task(follower.run())
    await client.put("hft/b", b"1")
    async with asyncio.timeout(SOON_S):
        snapshot = await watch._latest.next()
    assert set(snapshot.entries) == {"hft/a", "hft/b"} and snapshot.changed == {"hft/b"}
    running.cancel()
    await client.close()


async def test_a_frozen_server_makes_a_write_ambiguous_within_its_deadline_and_a_read_not(
    server: servers.Server,
) -> None:
    client = store.connect(f"etcd://{server.endpoint}")
    await client.put("hft/a", b"1")
    server.pause()
    started_s = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await client.put("hft/a", b"2")
    assert caught.value.ambiguous
    assert time.monotonic() - started_s < 1.0
    with pytest.raises(Unavailable) as caught:
        await client.get("hft/a")
    assert not caught.value.ambiguous
    server.resume()
    async with asyncio.timeout(SOON_S):
        while (entry := await _get(client, "hft/a")) is None:
            pass
    assert entry.value in (b"1", b"2")  # applied or not, as was said
    await client.close()


async def _get(client: store.Store, key: str) -> store.Entry | None:
    try:
        return await client.get(key)
    except Unavailable:
        return None


async def test_a_server_that_is_not_there_is_never_ambiguous_and_found_again_at_once(
    server: servers.Server,
) -> None:
    client = store.connect(f"etcd://{server.endpoint}")
    await client.put("hft/a", b"1")
    server.kill()
    for _ in range(5):
        with pytest.raises(Unavailable) as caught:
            await client.put("hft/a", b"2")
    assert not caught.value.ambiguous
    health = await client.health()
    assert not health.healthy and health.reason
    await asyncio.to_thread(server.start)
    assert isinstance(await client.put("hft/a", b"3"), Committed)  # no back-off of grpc's is in the way
    await client.close()


async def test_a_silent_stream_is_found_in_two_seconds_and_the_view_ages_meanwhile(
    server: servers.Server,
) -> None:
    client = etcd.EtcdStore([server.endpoint])
    async with aclosing(client.watch("hft/")) as watch:
        await anext(watch)
        waiting = asyncio.create_task(anext(watch))
        async with asyncio.timeout(SOON_S):
            while (first := _stream(client)) is None:  # noqa: ASYNC110 (the task of the read, which nobody announces)
                await asyncio.sleep(0.02)
        server.pause()
        frozen_ns = client.clock.boot_ns()
        async with asyncio.timeout(SOON_S):
            while _stream(client) is first:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0.02)
        assert client.clock.boot_ns() - frozen_ns < 2.0e9
        assert watch.confirmed_boot_ns < frozen_ns + 0.6e9  # at most the probe that was on its way
        server.resume()
        await put_until_done(client, "hft/a", b"1")
        async with asyncio.timeout(SOON_S):
            assert set((await waiting).entries) == {"hft/a"}
        assert watch.confirmed_boot_ns > frozen_ns
    await client.close()


async def test_a_quiet_watch_beside_a_busy_one_is_still_asked_for_its_own_connection(
    server: servers.Server,
) -> None:
    client = etcd.EtcdStore([server.endpoint], StoreSettings(probe_every_s=0.3, quiet_probe_s=0.6))

    async def write() -> None:
        while True:
            await client.put("hft/busy/a", b"1")
            await asyncio.sleep(0.02)

    async with aclosing(client.watch("hft/busy/")) as busy, aclosing(client.watch("hft/quiet/")) as quiet:
        await anext(busy)
        await anext(quiet)
        reading = asyncio.create_task(anext(quiet))
        following = asyncio.create_task(_follow(busy))
        writing = asyncio.create_task(write())
        began_ns = client.clock.boot_ns()
        async with asyncio.timeout(SOON_S):
            while quiet.confirmed_boot_ns < began_ns + 1e9:  # noqa: ASYNC110 (nobody announces it)
                await asyncio.sleep(0.02)
        for task in (writing, following, reading):
            task.cancel()
        await asyncio.gather(writing, following, reading, return_exceptions=True)
    await client.close()


async def _follow(watch: store.Watch) -> None:
    async for _ in watch:
        pass


def _stream(client: etcd.EtcdStore) -> asyncio.Task[object] | None:
    """The task that waits on the watch's stream now; None between two streams."""
    names = [
        task
        for task in asyncio.all_tasks()
        if task.get_name().startswith(f"store etcd {client.calls.addresses[0]}: Watch")
    ]
    return names[0] if names else None


async def test_a_lease_survives_a_restart_of_the_server(server: servers.Server) -> None:
    client = store.connect(f"etcd://{server.endpoint}")
    lease = await client.lease(30)
    await client.put("hft/mine", b"1", lease=lease)
    server.kill()
    with pytest.raises(Unavailable):
        await lease.keep_alive()
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(SOON_S):
        while True:
            try:
                await lease.keep_alive()
                break
            except Unavailable:
                await asyncio.sleep(0.02)
    assert await client.get("hft/mine") is not None
    await client.close()


async def test_a_store_that_was_emptied_behind_our_back_is_listed_anew(server: servers.Server) -> None:
    client = store.connect(f"etcd://{server.endpoint}")
    async with aclosing(client.watch("hft/")) as watch:
        for n in range(20):
            await client.put("hft/old", str(n).encode())
        await until(watch, "hft/old", b"19")
        server.kill()
        shutil.rmtree(server.folder)
        server.folder.mkdir(mode=0o700)
        await asyncio.to_thread(server.start)
        await put_until_done(client, "hft/new", b"1")
        snapshot = await until(watch, "hft/new", b"1")
        assert set(snapshot.entries) == {"hft/new"}
    await client.close()


async def test_with_three_members_the_death_of_any_one_stops_neither_writes_nor_watches(binary: Path) -> None:
    with servers.cluster(binary) as members:
        client = store.connect([member.endpoint for member in members])
        lease = await client.lease(5)
        async with aclosing(client.watch("hft/")) as watch:
            await anext(watch)
            for n, member in enumerate(members):
                await put_until_done(client, "hft/a", f"before {n}".encode())
                member.kill()
                started_s = time.monotonic()
                await put_until_done(client, "hft/a", f"without {n}".encode())
                await until(watch, "hft/a", f"without {n}".encode())
                assert time.monotonic() - started_s < 5.0
                await asyncio.to_thread(member.start)
                await lease.keep_alive()
        await client.close()


async def test_with_three_members_a_frozen_one_costs_one_try(binary: Path) -> None:
    with servers.cluster(binary) as members:
        client = store.connect([member.endpoint for member in members])
        async with aclosing(client.watch("hft/")) as watch:
            await anext(watch)
            members[0].pause()
            started_s = time.monotonic()
            async with asyncio.timeout(SOON_S):
                while await _get(client, "hft/a") is None:
                    await put_until_done(client, "hft/a", b"1")
            await until(watch, "hft/a", b"1")
            assert time.monotonic() - started_s < 5.0
            members[0].resume()
        await client.close()


async def test_what_became_of_a_write_is_read_from_another_member_than_the_one_that_hangs(
    binary: Path,
) -> None:
    with servers.cluster(binary) as members:
        client = store.connect([member.endpoint for member in members])
        assert isinstance(client, etcd.EtcdStore)
        assert isinstance(await client.put("hft/a", b"1"), Committed)
        (hung,) = [each for each in members if each.endpoint == client.calls.preferred().address]
        hung.pause()
        with pytest.raises(Unavailable) as caught:
            await client.put("hft/a", b"2")
        assert caught.value.ambiguous and client.calls.preferred().address != hung.endpoint
        hung.resume()
        await client.close()


async def test_a_write_that_a_full_store_refuses_may_be_in_it(binary: Path) -> None:
    """Writes that are under way when the space ends are answered alike, applied or not."""
    with servers.running(binary, ["--quota-backend-bytes", str(16 << 20)]) as server:
        client = store.connect([server.endpoint])
        refused: dict[str, Unavailable] = {}

        async def put(key: str) -> None:
            try:
                await client.put(key, bytes(400_000))
            except Unavailable as exc:
                refused[key] = exc

        async with asyncio.timeout(SOON_S):
            for turn in range(100):
                await asyncio.gather(*(put(f"hft/{turn}/{n}") for n in range(8)))
                if any("space exceeded" in str(exc) for exc in refused.values()):
                    break
        assert refused and all(exc.ambiguous for exc in refused.values()), refused
        await client.close()


# --- passwords ----------------------------------------------------------------------------------------------


def gateway(server: servers.Server, path: str, **fields: object) -> None:
    """etcd's JSON gateway, for the administration that the product does not do."""
    request = urllib.request.Request(f"http://{server.endpoint}/v3/auth/{path}", json.dumps(fields).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


async def test_user_and_password_work_without_tls_and_survive_an_ended_token(
    binary: Path, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    with servers.running(binary) as server:
        gateway(server, "user/add", name="root", password="secret")
        gateway(server, "role/add", name="root")
        gateway(server, "user/grant", user="root", role="root")
        gateway(server, "enable")
        # bcrypt on a busy machine takes longer than a try; what is measured here is not its speed.
        settings = StoreSettings(user="root", password_file=password)
        client = etcd.EtcdStore([server.endpoint], settings)
        async with aclosing(client.watch("hft/")) as watch:
            assert isinstance(await client.put("hft/a", b"1"), Committed)
            await until(watch, "hft/a", b"1")
            # A restart forgets all simple tokens, as their end does.
            server.kill()
            await asyncio.to_thread(server.start)
            await put_until_done(client, "hft/a", b"2")
            await until(watch, "hft/a", b"2")
        assert (await client.health()).healthy
        await client.close()

        password.write_text("wrong")
        wrong = etcd.EtcdStore([server.endpoint], settings)
        with pytest.raises(Denied):
            await wrong.get("hft/a")
        assert "authentication failed" in (await wrong.health()).reason
        await wrong.close()

        nobody = etcd.EtcdStore([server.endpoint])
        with pytest.raises(Denied):
            await nobody.get("hft/a")
        await nobody.close()


async def test_errors_of_the_server_leave_as_ours(server: servers.Server) -> None:
    """Straight through the calls, past the client's own limits."""
    from controlplane.store.etcd.rpc import etcd_pb2 as rpc

    client = etcd.EtcdStore([server.endpoint])
    requests = [
        ("Put", rpc.PutRequest(key=b"", value=b"1")),
        ("Put", rpc.PutRequest(key=b"a", value=b"1" * 2 * 1024 * 1024)),
        ("Put", rpc.PutRequest(key=b"a", value=b"1", lease=77)),
        ("Range", rpc.RangeRequest(key=b"a", revision=10**9)),
        (
            "Txn",
            rpc.TxnRequest(
                success=[rpc.RequestOp(request_put=rpc.PutRequest(key=str(n).encode())) for n in range(200)]
            ),
        ),
        ("LeaseGrant", rpc.LeaseGrantRequest(ttl=10**12)),
        ("Authenticate", rpc.AuthenticateRequest(name="a", password="b")),
    ]
    found = []
    for method, request in requests:
        with pytest.raises(HftctlError) as caught:
            await client.calls.unary(method, request, writes=True)
        found.append(type(caught.value).__name__)
    assert found == ["InvalidInput", "TooLarge", "LeaseLost", "Compacted", "TooLarge", "TooLarge", "Refused"]
    await client.close()


async def test_a_client_that_was_closed_in_the_middle_of_a_call_says_so(server: servers.Server) -> None:
    client = store.connect(f"etcd://{server.endpoint}")
    await client.put("hft/a", b"1")
    server.pause()
    calling = asyncio.create_task(client.txn([], [Put("hft/a", b"2")]))
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(Unavailable) as caught:
        await calling
    assert caught.value.ambiguous
    server.resume()
