"""A real floor under a seeded schedule of kills, freezes, failovers and rubbish in the store, watched from
outside ten times a second.

While it lasts: no daemon runs twice, no group has two lease pages in force, and `healthy` is never true while
something has been wrong for longer than 8 s. At the end: the floor is healthy by itself, positions and cash
equal the venue's, and the audit log holds every order that the venue has seen.

HFT_SOAK_S: how long (seconds); HFT_SOAK_SEED: the schedule. `make soak` runs ten minutes of another schedule
each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from controlplane import store
from controlplane.errors import HftctlError
from controlplane.floor.folders import Folders
from tests.support import floors, outside

SECONDS = float(os.environ.get("HFT_SOAK_S", "75"))
SEED = int(os.environ.get("HFT_SOAK_SEED", "2"))
CALM_S = 180.0
"""For the floor to be itself again: restarts wait up to 5 s, and a crash loop is one for 20 s."""

pytestmark = pytest.mark.timeout(SECONDS + 600)


class Schedule:
    def __init__(self, floor: floors.Floor, seed: int) -> None:
        self.floor, self.random = floor, random.Random(seed)
        self.done: list[str] = []
        self._frozen: list[tuple[float, int]] = []
        """When to wake which pid."""

    def run(self, seconds: float) -> None:
        actions: list[tuple[int, Callable[[], str]]] = [
            (6, self.kill_daemon),
            (3, self.freeze_daemon),
            (3, self.kill_helper),
            (2, self.freeze_helper),
            (2, self.failover),
            (2, self.rubbish),
            (1, self.kill_parent),
        ]
        weights = [weight for weight, _ in actions]
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            (chosen,) = self.random.choices([act for _, act in actions], weights)
            began_s = time.monotonic()
            with contextlib.suppress(ProcessLookupError, IndexError):
                self.done.append(f"{seconds - (end_s - began_s):6.1f} s: {chosen()}")
            until_s = time.monotonic() + self.random.uniform(0.1, 2.5)
            while time.monotonic() < until_s:
                self._wake()
                time.sleep(0.02)
        self._wake(everybody=True)

    def _wake(self, *, everybody: bool = False) -> None:
        now_s, waiting = time.monotonic(), []
        for at_s, pid in self._frozen:
            if everybody or at_s <= now_s:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            else:
                waiting.append((at_s, pid))
        self._frozen = waiting

    def _one(self, *, helpers: bool, parent: bool = False) -> outside.Process:
        def is_helper(name: str) -> bool:
            return name.startswith("hft-") or name == "etcd"

        found = sorted(outside.processes(self.floor.site_dir), key=lambda each: each.name)
        fit = [
            each
            for each in found
            if is_helper(each.name) is helpers and (parent or each.name != "hft-floord")
        ]
        return self.random.choice(fit)

    def _freeze(self, one: outside.Process, most_s: float) -> str:
        seconds = self.random.uniform(0.2, most_s)
        os.kill(one.pid, signal.SIGSTOP)
        self._frozen.append((time.monotonic() + seconds, one.pid))
        return f"{one.name} is frozen for {seconds:.1f} s"

    def kill_daemon(self) -> str:
        one = self._one(helpers=False)
        os.kill(one.pid, signal.SIGKILL)
        return f"{one.name} is killed"

    def kill_helper(self) -> str:
        one = self._one(helpers=True)
        os.kill(one.pid, signal.SIGKILL)
        return f"{one.name} is killed"

    def freeze_daemon(self) -> str:
        return self._freeze(self._one(helpers=False), 3.0)

    def freeze_helper(self) -> str:
        return self._freeze(self._one(helpers=True, parent=True), 12.0)

    def failover(self) -> str:
        done = self.floor.run("failover", "omsd", "--reason", "random")
        return f"failover: exit {done.returncode}"

    def kill_parent(self) -> str:
        self.floor.kill(self.floor.parent()["floord"]["pid"])
        time.sleep(self.random.uniform(0, 1.5))
        done = self.floor.run("up", "--detach", "--timeout", "60")
        return f"hft-floord is killed, up: exit {done.returncode}"

    def rubbish(self) -> str:
        """Under a key of the site; whoever owns it writes it again."""
        value = self.random.choice(
            (b"", b"\xff\x00{[", b"[" * 10_000, b"5", b'{"epoch": 18446744073709551616}')
        )
        return asyncio.run(self._put(value))

    async def _put(self, value: bytes) -> str:
        client = store.connect(Folders(self.floor.site_dir).store_url())
        try:
            async with asyncio.timeout(5):
                keys = [
                    key
                    for key in (await client.range("hft/lab/")).entries
                    if not key.startswith(("hft/lab/specs/", "hft/lab/ops/", "hft/lab/audit/"))
                    and "/history/" not in key
                    and not key.endswith(("/incarnation", "/secret", "/request"))
                ]
                key = self.random.choice(sorted(keys))
                await client.put(key, value)
                return f"{value[:10]!r} is put under {key}"
        except (HftctlError, TimeoutError) as exc:
            return f"no rubbish: {type(exc).__name__}"
        finally:
            await client.close()


def test_whatever_happens_the_floor_comes_back_whole_and_never_lies() -> None:
    print(f"HFT_SOAK_SEED={SEED} HFT_SOAK_S={SECONDS:g}")
    with floors.floor() as floor:
        assert floor.trades()
        observer, schedule = outside.Observer(floor), Schedule(floor, SEED)
        observer.start()
        try:
            schedule.run(SECONDS)
            floors.wait_for("healthy by itself", floor.healthy, seconds=CALM_S, pause_s=0.3)
            assert floor.trades()
            floors.wait_for("positions equal to the venue's", floor.settled)
            floors.wait_for(
                "every order that the venue saw is in the audit log",
                lambda: outside.seen_by_venue(floor.site_dir) <= outside.placed_in_audit(floor.site_dir),
            )
        finally:
            observer.stop()
            print("\n".join(schedule.done))
            print("\n".join(observer.violations[:20]))
        assert observer.violations == []
        assert observer.looks > SECONDS and observer.healthy > 0
        assert len(outside.seen_by_venue(floor.site_dir)) > 10
        assert outside.sent_twice(floor.site_dir) == set()
