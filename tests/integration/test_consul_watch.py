"""Blocking queries before a server that answers by a script: the rules of Consul's index, each alone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from controlplane.settings import StoreSettings
from controlplane.store import Snapshot, consul
from tests.support.stores import SOON_S

pytestmark = [pytest.mark.anyio]


def listing(index: int, pairs: dict[str, tuple[str, int]], status: str = "200 OK") -> bytes:
    rows = [
        {"Key": key, "Value": base64.b64encode(value.encode()).decode(), "ModifyIndex": at}
        for key, (value, at) in pairs.items()
    ]
    body = json.dumps(rows).encode()
    return (
        f"HTTP/1.1 {status}\r\nX-Consul-Index: {index}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


@asynccontextmanager
async def scripted(path: Path, answers: Callable[[str, int], bytes | None]) -> AsyncIterator[list[str]]:
    """`answers` is given the request's target and its number, counted from 0."""
    targets: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split()[1].decode()
                targets.append(target)
                said = answers(target, len(targets) - 1)
                if said is None:
                    await reader.read()
                    return
                writer.write(said)
                await writer.drain()
                await asyncio.sleep(0.01)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield targets
    finally:
        server.close()


def shown(snapshot: Snapshot) -> list[bytes]:
    return [entry.value for entry in snapshot.entries.values()]


def of(path: Path) -> consul.ConsulStore:
    return consul.ConsulStore([f"unix:{path}"], StoreSettings(probe_every_s=0.2, probe_answer_s=0.3))


async def test_the_first_list_is_consistent_and_each_question_names_the_index_before(tmp_path: Path) -> None:
    def answers(target: str, number: int) -> bytes:
        return listing(10 + number, {"hft/a": (str(number), 10 + number)})

    async with scripted(tmp_path / "s", answers) as targets:
        store = of(tmp_path / "s")
        async with aclosing(store.watch("hft/")) as watch:
            for _ in range(3):
                async with asyncio.timeout(SOON_S):
                    await anext(watch)
        assert targets[0] == "/v1/kv/hft/?recurse&consistent"
        assert targets[1] == "/v1/kv/hft/?recurse&index=10&wait=200ms"
        assert "index=11" in targets[2]
        await store.close()


async def test_an_index_that_falls_is_listed_again_and_the_reader_sees_the_state_that_is(
    tmp_path: Path,
) -> None:
    """As after a restored snapshot: what the answer with the lower index says is not shown."""

    def answers(target: str, number: int) -> bytes:
        if number == 0:
            return listing(50, {"hft/a": ("new", 50)})
        if number == 1:
            return listing(7, {"hft/a": ("stale", 5)})
        return listing(8, {"hft/a": ("restored", 6)})

    async with scripted(tmp_path / "s", answers) as targets:
        store = of(tmp_path / "s")
        async with aclosing(store.watch("hft/")) as watch:
            async with asyncio.timeout(SOON_S):
                first = await anext(watch)
                assert shown(first) == [b"new"] and first.revision == 50
                second = await anext(watch)
                assert shown(second) == [b"restored"] and second.revision == 6
        assert "consistent" in targets[2] and "index" not in targets[2]
        await store.close()


@pytest.mark.parametrize("index", ["0", "-3", "none"])
async def test_an_index_that_is_none_makes_no_hot_loop(tmp_path: Path, index: str) -> None:
    def answers(target: str, number: int) -> bytes:
        body = b"[]"
        return f"HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nContent-Length: 2\r\n\r\n".encode() + body

    async with scripted(tmp_path / "s", answers) as targets:
        store = of(tmp_path / "s")
        async with aclosing(store.watch("hft/")) as watch:
            async with asyncio.timeout(SOON_S):
                await anext(watch)
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0.2)
            waiting.cancel()
        assert targets[1].endswith("index=1&wait=200ms")
        await store.close()


async def test_a_server_that_never_waits_is_not_asked_in_a_hot_loop(tmp_path: Path) -> None:
    async with scripted(tmp_path / "s", lambda target, number: listing(9, {"hft/a": ("1", 9)})) as targets:
        store = of(tmp_path / "s")
        async with aclosing(store.watch("hft/")) as watch:
            async with asyncio.timeout(SOON_S):
                await anext(watch)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await anext(watch)
        assert len(targets) < 40
        await store.close()


async def test_a_wait_that_is_over_confirms_the_view_and_wakes_nobody(tmp_path: Path) -> None:
    async with scripted(tmp_path / "s", lambda target, number: listing(9, {"hft/a": ("1", 9)})):
        store = of(tmp_path / "s")
        async with aclosing(store.watch("hft/")) as watch:
            async with asyncio.timeout(SOON_S):
                await anext(watch)
            before = watch.confirmed_boot_ns
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(watch)
            assert watch.confirmed_boot_ns > before
        await store.close()


@pytest.mark.parametrize(
    "bad",
    [
        None,
        b"HTTP/1.1 500 Oops\r\nContent-Length: 17\r\n\r\nNo cluster leader",
        b"HTTP/1.1 429 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 403 No\r\nContent-Length: 13\r\n\r\nACL not found",
        b"HTTP/1.1 200 OK\r\nX-Consul-Index: 77\r\nContent-Length: 3\r\n\r\n{}{",
        b"SMTP ready\r\n\r\n",
    ],
)
async def test_whatever_a_server_answers_the_watch_goes_on_and_asks_no_faster_than_its_bucket(
    tmp_path: Path, bad: bytes | None
) -> None:
    """The bad server stands first; the good one beside it takes over, and the reader notices nothing."""
    good = listing(5, {"hft/a": ("good", 5)})
    async with (
        scripted(tmp_path / "bad", lambda target, number: bad) as refused,
        scripted(tmp_path / "good", lambda target, number: good),
    ):
        store = consul.ConsulStore(
            [f"unix:{tmp_path / 'bad'}", f"unix:{tmp_path / 'good'}"],
            StoreSettings(probe_every_s=0.2, probe_answer_s=0.3, try_s=0.2),
        )
        async with aclosing(store.watch("hft/")) as watch:
            async with asyncio.timeout(SOON_S):
                snapshot = await anext(watch)
            assert shown(snapshot) == [b"good"]
        assert 1 <= len(refused) <= 20
        await store.close()
