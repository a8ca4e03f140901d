"""A crowd of store clients in one process: each has a connection, a watch and a key of its own, as agents do.

`python -m tests.support.store_crowd URL COUNT NAME` prints each number that is put under `hft/crowd/go` once
the last of them has seen it (0: the key is not there). Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import aclosing

from controlplane import store
from controlplane.errors import Unavailable

GO = "hft/crowd/go"


async def _one(url: str, name: str, seen: asyncio.Queue[int]) -> None:
    client = store.connect(url)
    async with aclosing(client.watch("hft/crowd/")) as watch:
        last = -1
        async for snapshot in watch:
            number = int(snapshot.entries[GO].value) if GO in snapshot.entries else 0
            if number != last:
                last = number
                with contextlib.suppress(Unavailable):
                    await client.put(f"hft/crowded/{name}", str(number).encode())
                seen.put_nowait(number)


async def _crowd(url: str, count: int, name: str) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()
    tasks = [asyncio.create_task(_one(url, f"{name}-{n}", seen)) for n in range(count)]
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: [task.cancel() for task in tasks])
    told: dict[int, int] = {}

    async def tell() -> None:
        while True:
            number = await seen.get()
            told[number] = told.get(number, 0) + 1
            if told[number] == count:
                print(number, flush=True)

    telling = asyncio.create_task(tell())
    await asyncio.gather(*tasks, return_exceptions=True)
    telling.cancel()


if __name__ == "__main__":
    asyncio.run(_crowd(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
