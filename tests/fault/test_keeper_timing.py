"""Keepers that keep time by different profiles, and a keeper whose disk is slow: never two leaders, and no
lead lost for a disk. Real processes and words, the store in memory.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from agents.keeper import protocol
from agents.keeper.seen_tokens import SeenTokens
from controlplane.leadership import budget
from controlplane.model import records
from hftd.shm.pages import Wanted
from tests.fault.test_keeper_leadership import never_two
from tests.support.keepers import Floor, run, until


@pytest.mark.parametrize(("leads", "follows"), [("safe", "fast"), ("fast", "safe"), ("safe", "default")])
def test_hosts_with_different_profiles_never_have_two_leaders(
    tmp_path: Path, leads: str, follows: str
) -> None:
    """R1: the follower waits for the longer lease, though its own would have let it lead long before."""

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        for host, profile, daemon in (("alpha", leads, first), ("beta", follows, second)):
            floor.keepers[host].apply(protocol.Table((daemon.entry(),), profile))
        await renewed(floor, budget.profile(leads).lease_ms)
        await floor.kill_keeper("alpha")
        await never_two([first, second], second.leads, "beta leads")
        assert second.lease().epoch == 2
        await renewed(floor, budget.profile(follows).lease_ms)

    run(tmp_path, case)


async def renewed(floor: Floor, lease_ms: int) -> None:
    """The leader record names this lease."""
    async with asyncio.timeout(10):
        while (await floor.leader() or LEADERLESS).lease_ms != lease_ms:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


LEADERLESS = records.LeaderRecord(None, 0, 0, None, "")


def test_a_profile_that_becomes_shorter_holds_from_the_end_of_the_longer_word_on(tmp_path: Path) -> None:
    """A word that is armed for two seconds is not made shorter: until it has run out, the record names the
    lease under which it was armed.
    """

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        floor.keepers["alpha"].apply(protocol.Table((first.entry(),), "safe"))
        floor.keepers["beta"].apply(protocol.Table((second.entry(),), "fast"))
        await renewed(floor, budget.SAFE.lease_ms)
        await until(lambda: first.lease().valid_until_ns - boot_ns() > 1.5e9, "a word of two seconds")
        floor.keepers["alpha"].apply(protocol.Table((first.entry(),), "fast"))
        nonces: set[str] = set()
        while len(nonces) < 4:  # renewals by the short profile, while the word is armed for the long one
            nonces.add((await floor.leader() or LEADERLESS).nonce)
            await asyncio.sleep(0.005)
        assert first.lease().valid_until_ns - boot_ns() > 0.6e9
        await floor.kill_keeper("alpha")
        await never_two([first, second], second.leads, "beta leads")

    run(tmp_path, case)


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("seconds", [0.2, 1.0, 5.0])
def test_a_disk_that_is_slow_to_sync_holds_up_no_renewal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """The keeper's file is written beside the loop that renews: no word runs out, no role changes."""

    async def case(floor: Floor) -> None:
        saved = SeenTokens.save

        def slow(tokens: SeenTokens, content: bytes) -> None:
            time.sleep(seconds)
            saved(tokens, content)

        monkeypatch.setattr(SeenTokens, "save", slow)
        first, second = await floor.pair()
        end_s = time.monotonic() + seconds + 0.5
        while time.monotonic() < end_s:
            assert first.leads(), "its word ran out while a disk was waited for"
            assert first.lease().epoch == 1
            await asyncio.sleep(0.005)
        first.kill()
        await until(second.leads, "beta takes over with its own disk as slow")

    run(tmp_path, case)


def test_a_keeper_that_comes_back_after_its_lead_was_taken_ends_it_in_the_word(tmp_path: Path) -> None:
    """The word of a keeper that was killed stays as it was; its daemon must hear that it leads no more."""

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        await floor.kill_keeper("alpha")
        await never_two([first, second], second.leads, "beta leads")
        assert first.lease().wanted is Wanted.LEAD
        again = await floor.keeper("alpha")
        again.apply(protocol.Table((first.entry(),)))
        await never_two([first, second], lambda: first.lease().wanted is Wanted.STANDBY, "alpha hears it")
        assert second.leads() and second.lease().epoch == 2

    run(tmp_path, case)
