"""A receiver's fences and its agent: what an operator may see of them and set, and the alarms.

Wired by every daemon that keeps fences. What a fence is: storage/fences.py; how high a token is believed:
storage/heights.py; who asks: `hftctl fence show` and `reset`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controlplane.model import Token
from hftd import runtime
from hftd.daemons.claim_check import ClaimCheck
from hftd.shm import kept_fences
from hftd.storage import fences as fencing
from hftd.wire import control

LOOK_EVERY_S = 1.0
SHOWN_AFTER_NS = 1_000_000_000
"""A claim that the store confirms within this time (a first start, a store that was restored) is no alarm."""
AHEAD_AFTER_NS = 5_000_000_000
"""A fence above what the agent says of the store, for so long: the agent's word is never that late."""


def keep(loop: runtime.Loop, context: runtime.Context, fences: fencing.Fences, claims: ClaimCheck) -> None:
    """Let the agent ask for these fences and set them, and look at them, and at what came forged, once a
    second.
    """
    keeper = FenceKeeper(context, fences)
    loop.on_ask("fences", keeper.rows)
    loop.on_fence_reset(keeper.reset)
    loop.every(LOOK_EVERY_S, keeper.look)
    loop.every(LOOK_EVERY_S, claims.look)


def in_background(context: runtime.Context, then: Callable[[], None]) -> fencing.Writer:
    """A writer for a receiver that holds a lease: its loop waits for no disk. `then` is called after each
    write, and asks again for what was being written.
    """

    def write(path: Path, rows: Mapping[str, kept_fences.Row], done: Callable[[str], None]) -> None:
        def ended(error: str) -> None:
            done(error)
            then()

        context.worker.run(lambda: fencing.written(path, rows), ended)

    return write


class FenceKeeper:
    def __init__(self, context: runtime.Context, fences: fencing.Fences) -> None:
        self._context, self._fences = context, fences
        self._ahead_ns: dict[str, int] = {}
        """Since when a group's fence is above the store's, CLOCK_MONOTONIC."""

    def rows(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        """Every group's fence, and how many of its claims were admitted."""
        found = []
        for group in self._fences.groups():
            token, claimant = self._fences.highest(group), self._fences.claimant(group)
            assert token is not None and claimant is not None
            found.append(
                {
                    "group": group,
                    "incarnation": token.incarnation,
                    "epoch": token.epoch,
                    "claimant": dataclasses.asdict(claimant),
                    "admitted": self._fences.admitted(group),
                }
            )
        return found

    def reset(self, asked: control.FenceReset, answer: Callable[[str], None]) -> None:
        """Only the agent's link carries this message. Answered once the disk has it, or does not take it."""
        store, before = asked.store.token(), self._fences.highest(asked.store.group)
        claimant = asked.claimant.process() if asked.claimant.instance else fencing.NOBODY

        def ended(why_not: str) -> None:
            after = self._fences.highest(store.group)
            if not why_not and after != before:
                self._context.count("fences_reset")
                self._context.event("fence.lowered", group=store.group, before=_of(before), now=_of(after))
            self.look(time.monotonic_ns())
            answer(why_not)

        self._fences.reset(store, claimant, asked.admitted, ended)

    def look(self, now_ns: int) -> None:
        self._look_at_claims(self._fences.claims())
        self._look_at_fences(now_ns)

    def _look_at_claims(self, claims: list[fencing.Claim]) -> None:
        context = self._context
        now_ns = time.monotonic_ns()
        shown = [claim for claim in claims if now_ns - claim.since_ns >= SHOWN_AFTER_NS]
        context.gauge("fences_unconfirmed", len(shown))
        if not shown:
            context.clear("fence_unconfirmed")
            return
        first = shown[0]
        more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
        since_wall_ns = time.time_ns() - (now_ns - first.since_ns)
        since = datetime.fromtimestamp(since_wall_ns / 1e9, UTC).strftime("%H:%M:%S UTC")
        text = (
            f"{context.service} does not take the token {_of(first.token)} of group "
            f"{first.token.group[:64]!r}, claimed by {first.claimant.instance[:64] or 'no process'} "
            f"(pid {first.claimant.pid}) since {since}{more}: the store is known to hold {_of(first.store)}; "
            "nothing was written, the present leader's orders pass; should the claimant be the leader, it is "
            f"let in once the store confirms it; see: hftctl fence show {first.token.group[:64]}"
        )
        context.alarm("fence_unconfirmed", "warning", text)

    def _look_at_fences(self, now_ns: int) -> None:
        """A group whose fence is above the store's is locked out until somebody sets it right."""
        context, locked = self._context, []
        for group in self._fences.groups():
            fence, store = self._fences.highest(group), context.store_tokens.told(group)
            if fence is None or store is None or fence.rank <= store.rank:
                self._ahead_ns.pop(group, None)
            elif now_ns - self._ahead_ns.setdefault(group, now_ns) >= AHEAD_AFTER_NS:
                locked.append((fence, store))
        if not locked:
            context.clear("fence_ahead")
            return
        fence, store = locked[0]
        text = (
            f"the fence of group {fence.group!r} is {_of(fence)}, and the store gave out {_of(store)} at "
            f"most: {context.service} refuses the group's leader; "
            f"if it stays so: hftctl fence reset {fence.group} --reason TEXT"
        )
        context.alarm("fence_ahead", "critical", text)


def _of(token: Token | None) -> str:
    return "nothing" if token is None else f"{token.incarnation}/{token.epoch}"
