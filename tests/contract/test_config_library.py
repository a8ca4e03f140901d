"""Configuration for other programs, on each store: keys and settings read, put and watched; other clients of
the same store; callbacks that raise.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import urllib.request
from typing import Any

import pytest

from controlplane import config, model, store
from controlplane.errors import InvalidInput, Unavailable
from controlplane.model.config import PlainKey
from controlplane.store import Keys
from tests.support import configured
from tests.support.configured import asked
from tests.support.stores import until_true

pytestmark = pytest.mark.anyio


@pytest.fixture
def keys(root: str) -> Keys:
    return Keys(root.split("/")[1])


async def test_a_program_puts_reads_and_watches_a_key(where: str, keys: Keys) -> None:
    seen: list[Any] = []
    async with config.connect(where, keys.site) as conf, config.connect(where, keys.site) as other:
        end = conf.watch("max_position", seen.append)
        assert conf.flag("max_position") is None and conf.flag("max_position", 7) == 7 and seen == []
        await other.put("max_position", 5, reason="why", actor="ann")
        await until_true(lambda: seen == [5])
        assert conf.flag("max_position") == 5 == await conf.get("max_position")
        await other.put("max_position", 6)
        await until_true(lambda: seen == [5, 6])
        late: list[Any] = []
        conf.watch("max_position", late.append)
        assert late == [6], "what stands, at once"
        await other.delete("max_position")
        await until_true(lambda: seen == [5, 6, None])
        assert conf.flag("max_position") is None and await conf.get("max_position") is None
        end()
        await other.put("max_position", 8)
        await until_true(lambda: late == [6, None, 8])
        assert seen == [5, 6, None] and conf.age_s() < 5


async def test_a_callback_that_raises_harms_only_itself(where: str, keys: Keys) -> None:
    seen: list[Any] = []
    calls: list[Any] = []

    def bad(value: Any) -> None:
        calls.append(value)
        raise ZeroDivisionError

    async def waits(value: Any) -> None: ...

    async with config.connect(where, keys.site) as conf:
        conf.watch("x", bad)
        conf.watch("x", seen.append)
        for n in range(3):
            await conf.put("x", n)
            await until_true(lambda n=n: bool(seen) and seen[-1] == n)  # type: ignore[misc]
        assert calls == [0, 1, 2]
        with pytest.raises(TypeError, match="wanted a plain one"):
            conf.watch("x", waits)
        with pytest.raises(InvalidInput):
            conf.watch("a/b", seen.append)


async def test_a_setting_of_a_services_document_is_watched_and_read(
    one: store.Store, where: str, keys: Keys
) -> None:
    await configured.put_spec(one, keys, max_position="50")
    seen: list[Any] = []
    breaker: list[Any] = []
    async with config.connect(where, keys.site) as conf:
        conf.watch("riskd.max_position", seen.append)
        conf.watch("riskd.breaker", breaker.append)
        assert seen == ["50"] and await conf.get("riskd.max_position") == "50"
        change = await configured.change(one, keys)
        await change.run(asked(set={"max_position": "60"}))
        await until_true(lambda: seen == ["50", "60"])
        await change.run(asked(set={"breaker.failures": 9}))
        await until_true(lambda: breaker[-1]["failures"] == 9)
        assert seen == ["50", "60"], "another setting"
        assert await conf.get("riskd.breaker.failures") == 9
        await one.delete(keys.spec("riskd"))
        await until_true(lambda: seen == ["50", "60", None])
        with pytest.raises(InvalidInput, match="found the service riskd before a dot"):
            await configured.put_spec(one, keys)
            await until_true(lambda: seen[-1] is not None)
            await conf.put("riskd.max_position", 1)


async def test_with_an_empty_prefix_a_key_is_config_slash_key_and_a_bare_value_is_read(
    one: store.Store, where: str, keys: Keys
) -> None:
    """As users' documents have it, with any client of the store on the other side."""
    key = f"max_position_{keys.site}"
    seen: list[Any] = []
    async with config.connect(where, keys.site, prefix="") as conf:
        conf.watch(key, seen.append)
        for value, read in (
            (b"5", 5),
            (b"five", "five"),
            (b'{"a": 1}', {"a": 1}),
            (b"1.5", 1.5),
            (b"true", True),
        ):
            await one.put(f"config/{key}", value)
            await until_true(lambda read=read: bool(seen) and seen[-1] == read)  # type: ignore[misc]
            assert await conf.get(key) == read == conf.flag(key)
        await conf.put(key, 7)
        entry = await one.get(f"config/{key}")
        assert entry is not None and model.decode(PlainKey, entry.value).value == 7
        await until_true(lambda: seen[-1] == 7)
        await one.delete(f"config/{key}")
        await until_true(lambda: seen[-1] is None)


async def test_a_raw_client_of_the_store_and_the_library_share_config_slash_key(
    where: str, keys: Keys
) -> None:
    """Without any code of ours on the other side: Consul's HTTP, and etcd's own gateway."""
    kind, _, target = where.partition("://")
    if kind == "memory":
        return  # nobody else speaks to it
    key = f"config/max_position_{keys.site}"
    seen: list[Any] = []

    def ask(method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://{target}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: bytes = answer.read()
            return found

    def put(value: bytes) -> None:
        if kind == "consul":
            ask("PUT", f"/v1/kv/{key}", value)
        else:
            row = {"key": base64.b64encode(key.encode()), "value": base64.b64encode(value)}
            body = json.dumps({name: text.decode() for name, text in row.items()})
            ask("POST", "/v3/kv/put", body.encode())

    def get() -> bytes:
        if kind == "consul":
            return ask("GET", f"/v1/kv/{key}?raw")
        body = json.dumps({"key": base64.b64encode(key.encode()).decode()})
        found = json.loads(ask("POST", "/v3/kv/range", body.encode()))
        return base64.b64decode(found["kvs"][0]["value"])

    async with config.connect(where, keys.site, prefix="/") as conf:
        conf.watch(key.removeprefix("config/"), seen.append)
        await asyncio.to_thread(put, b"5")
        await until_true(lambda: seen == [5])
        await conf.put(key.removeprefix("config/"), 6)
        assert json.loads(await asyncio.to_thread(get))["value"] == 6
        await asyncio.to_thread(put, b"not JSON")
        await until_true(lambda: seen[-1] == "not JSON")


async def test_a_value_that_is_none_leaves_the_last_good_one_and_a_kill_switch_set(
    one: store.Store, where: str, keys: Keys
) -> None:
    await one.put(keys.plain_key("kill_switch"), b"maybe")
    await one.put(keys.plain_key("x"), b"1")
    async with config.connect(where, keys.site) as conf:
        assert conf.flag("kill_switch") is True and conf.flag("x") == 1
        await one.put(keys.plain_key("x"), b'{"value": "a", "type": "int"}')
        await one.put(keys.plain_key("kill_switch"), b"false")
        await until_true(lambda: conf.flag("kill_switch") is False)
        assert conf.flag("x") == 1
        await one.put(keys.plain_key("kill_switch"), b"\xff")
        await one.put(keys.plain_key("y"), b"2")
        await until_true(lambda: conf.flag("y") == 2)
        assert conf.flag("kill_switch") is False, "the last that was known"


async def test_a_program_without_an_event_loop_does_the_same(where: str, keys: Keys) -> None:
    seen: list[Any] = []

    def story() -> None:
        with config.connect_in_thread(where, keys.site) as conf:
            end = conf.watch("x", seen.append)
            conf.put("x", 1)
            deadline_s = time.monotonic() + 10
            while conf.flag("x") != 1 and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert conf.get("x") == 1 == conf.flag("x") and seen == [1] and conf.age_s() < 5
            end()
            conf.delete("x")
            assert conf.get("x") is None
        end()

    if where.startswith("memory"):
        story()  # in its own loop, as the memory store is of one thread at a time
    else:
        await asyncio.to_thread(story)


async def test_a_store_that_is_away_is_said_at_the_door() -> None:
    with pytest.raises(Unavailable, match=r"no answer within 0.3 s"):
        async with config.connect("etcd://127.0.0.1:1", "lab", first_s=0.3):
            raise AssertionError("nobody is let in")
    async with config.connect("etcd://127.0.0.1:1", "lab", first_s=None) as conf:
        assert conf.flag("x") is None and not conf.flag("kill_switch")
