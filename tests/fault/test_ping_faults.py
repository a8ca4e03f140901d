"""Keepers whose pings fail: by another key, by rubbish in host records, by a stranger. What that costs is a
named successor, and nothing else.
"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agents.keeper import pings, protocol
from controlplane import model
from controlplane.model.observed import HostRecord
from tests.support import keepers
from tests.support.keepers import KEYS, Floor, run, until

BAD = ("x:99999", "127.0.0.1:99999", "[::1]:1", "a" * 5_000 + ":1", "127.0.0.1:port", "localhost:4000", "::")


def sentences(floor: Floor) -> list[str]:
    """What the members did, as events."""
    told = [message for message in floor.told if isinstance(message, protocol.FromKeeper)]
    return [message.event.text for message in told if message.event is not None]


async def announce(floor: Floor, host: str, keeper: str) -> None:
    await floor.store.put(KEYS.host(host), model.encode(HostRecord(host, "127.0.0.1", "", keeper, "", 1)))


@pytest.mark.parametrize("key", [None, b"another key, of 32 bytes, it is."])
def test_without_a_common_key_a_hand_over_names_nobody_and_the_standby_races(
    tmp_path: Path, key: bytes | None
) -> None:
    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        alpha, beta = floor.keepers["alpha"], floor.keepers["beta"]
        beta.peers.key = key
        await until(lambda: not alpha.successors(), "what was heard before is old")
        first.kill()
        await until(second.leads, "beta leads")
        assert second.lease().epoch == 2 and not first.leads()
        assert any("hands epoch 1 over to no instance" in text for text in sentences(floor))
        kind = "no_key" if key is None else "forged"
        assert beta.peers.unauthenticated[kind] > 0

    run(tmp_path, case)


def test_rubbish_in_host_records_costs_no_other_peer_its_pings(tmp_path: Path) -> None:
    """Also for the peer whose own record turns bad: its last good address is kept."""

    async def case(floor: Floor) -> None:
        first, second = await floor.pair()
        alpha = floor.keepers["alpha"]
        for n, bad in enumerate(BAD):
            await announce(floor, f"stranger-{n}", bad)
        await floor.store.put(KEYS.host("no-record"), b"\xff{")
        await floor.store.put(KEYS.host("no-text"), b'{"keeper": 7}')
        await announce(floor, "beta", BAD[0])
        await until(lambda: alpha.peers.undecodable == len(BAD) + 1, "each refused, and counted once")
        for _ in range(3):
            await announce(floor, "beta", BAD[0])
        now_ns = alpha.clock.boot_ns()
        await until(lambda: alpha.peers._answers["beta"] > now_ns, "beta still answers")
        assert alpha.peers.undecodable == len(BAD) + 1 and second.process in alpha.successors()
        assert alpha.report().undecodable == len(BAD) + 1
        first.kill()
        await until(second.leads, "beta leads")
        assert any("hands epoch 1 over to omsd-beta-1" in text for text in sentences(floor))

    run(tmp_path, case)


def test_a_stranger_at_the_port_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    """Somebody on the machine who has seen a ping, and sends it again, in parts, enlarged and forged."""

    async def case(floor: Floor) -> None:
        _, second = await floor.pair()
        alpha, beta = floor.keepers["alpha"], floor.keepers["beta"]
        host, port = beta.peers.address.rsplit(":", 1)
        seen = pings.seal(keepers.PING_KEY, pings.Ping(KEYS.site, "alpha", "beta", 1, bytes(8), []))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.settimeout(0.2)
            for data in (seen, seen[:-1], seen[:9], seen + b"x", bytes(16) + seen[16:], bytes(60_000)):
                stranger.sendto(data, (host, int(port)))
            counted = {"unannounced": 1, "forged": 3}
            await until(
                lambda: (
                    beta.peers.undecodable == 2
                    and {kind: beta.peers.unauthenticated[kind] for kind in counted} == counted
                ),
                "all six counted by kind",
            )
            with pytest.raises(TimeoutError):
                stranger.recv(1)
        report = beta.report()
        assert report.unauthenticated == {**counted, "unasked": 0, "no_key": 0} and report.undecodable == 2
        await until(lambda: second.process in alpha.successors(), "and beta passes as before")

    run(tmp_path, case)
