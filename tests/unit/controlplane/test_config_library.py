"""The library's memory: what a flag costs. Everything else that it does is tested on every store
(tests/contract/test_config.py).
"""

from __future__ import annotations

import timeit
from typing import Any

import pytest

from controlplane import config
from controlplane.store import Keys
from controlplane.store.memory import Memory, MemoryStore
from tests.support.stores import until_true

pytestmark = pytest.mark.anyio
FLAG_NS = 100


async def test_a_flag_is_read_in_under_100_ns() -> None:
    store = MemoryStore(Memory())
    keys = Keys("lab")
    for number in range(200):
        await store.put(keys.plain_key(f"flag-{number}"), b"true")
    async with config.connect(store, "lab") as conf:
        assert conf.flag("flag-150") is True and conf.flag("none") is None
        # The best of many short runs: the machine may be busy in any one of them.
        timer = timeit.Timer("flag('flag-150')", globals={"flag": conf.flag})
        best_s = min(timer.repeat(repeat=200, number=1000)) / 1000
        assert best_s * 1e9 < FLAG_NS


async def test_a_value_of_any_depth_harms_no_other() -> None:
    store, keys = MemoryStore(Memory()), Keys("lab")
    seen: list[Any] = []
    async with config.connect(store, "lab") as conf:
        conf.watch("deep", lambda value: None)
        conf.watch("x", seen.append)
        for number, depth in enumerate((10, 400, 900, 100_000)):
            await store.put(keys.plain_key("deep"), b"[" * depth + b"]" * depth)
            await store.put(keys.plain_key("deep"), b"[" * depth + b"1" + b"]" * depth)
            await store.put(keys.plain_key("x"), str(number).encode())
            await until_true(lambda number=number: bool(seen) and seen[-1] == number)  # type: ignore[misc]
        assert seen == [0, 1, 2, 3]
        assert conf.flag("deep") == [[[[[[[[[[1]]]]]]]]]], "the last that a program can be given"


async def test_a_store_of_the_callers_is_left_open() -> None:
    store = MemoryStore(Memory())
    async with config.connect(store, "lab") as conf:
        await conf.put("x", 1)
    assert await store.get(Keys("lab").plain_key("x")) is not None
