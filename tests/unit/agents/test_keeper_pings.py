"""Pings between keepers: what counts, what is refused, and that one bad address harms no other peer."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.keeper import peers, pings
from agents.keeper.pings import Ping, Pong
from controlplane import clock
from controlplane.errors import InvalidInput
from controlplane.model import Process
from controlplane.model.process import host_of

KEY = bytes(range(32))
MS = 1_000_000
BOOT = "0f1e2d3c-4b5a-4678-89ab-cdef01234567"
BETA = Process("omsd-beta-1", BOOT, 4711, 123456)
OTHER = Process("execd-beta-1", BOOT, 4712, 123457)
ALPHA_AT, BETA_AT = ("127.0.0.1", 1), ("127.0.0.1", 2)


class Wire:
    """Two keepers' pings without a socket: what one sends, the other receives when told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, object]] = []

    def sendto(self, data: bytes, addr: object) -> None:
        self.sent.append((data, addr))

    def is_closing(self) -> bool:
        return False


@dataclass
class Pair:
    """alpha has asked beta once."""

    fit: Sequence[Process] = ()
    asked: Sequence[Process] = (BETA, OTHER)
    time: clock.FakeClock = field(default_factory=clock.FakeClock)
    out: Wire = field(default_factory=Wire)
    back: Wire = field(default_factory=Wire)

    def __post_init__(self) -> None:
        self.alpha = peers.Peers("site", "alpha", self.time, list, lambda: {"beta": self.asked})
        self.beta = peers.Peers("site", "beta", self.time, lambda: self.fit, dict)
        for one, wire in ((self.alpha, self.out), (self.beta, self.back)):
            one.key = KEY
            one.connection_made(wire)  # type: ignore[arg-type]
            one.meet({"alpha": "127.0.0.1:1", "beta": "127.0.0.1:2", "gamma": ""})
        self.alpha.ask()

    @property
    def question(self) -> bytes:
        return self.out.sent[0][0]

    def answer(self) -> bytes:
        self.beta.datagram_received(self.question, ALPHA_AT)
        return self.back.sent[-1][0]

    def passing(self) -> frozenset[Process]:
        return self.alpha.passing(self.time.boot_ns(), 200 * MS)


def refused(one: peers.Peers) -> dict[str, int]:
    return {kind: count for kind, count in one.unauthenticated.items() if count}


def test_a_peer_passes_by_an_answer_not_older_than_the_bound() -> None:
    """R9: counted from the question's sending."""
    pair = Pair([BETA])
    assert len(pair.out.sent) == 1 and pair.passing() == frozenset()
    pair.time.advance_s(0.15)
    pair.alpha.datagram_received(pair.answer(), BETA_AT)
    assert pair.passing() == {BETA}
    pair.time.advance_s(0.06)
    assert pair.passing() == frozenset()
    assert not refused(pair.alpha) and not refused(pair.beta)


def test_a_process_that_passes_no_more_is_not_named_by_an_older_answer() -> None:
    pair = Pair([BETA])
    older = pair.answer()
    pair.time.advance_s(0.1)
    pair.alpha.ask()
    pair.fit = []
    pair.beta.datagram_received(pair.out.sent[1][0], ALPHA_AT)
    pair.alpha.datagram_received(pair.back.sent[-1][0], BETA_AT)
    pair.alpha.datagram_received(older, BETA_AT)
    assert pair.passing() == frozenset()


def test_an_answer_counts_once_from_the_peer_s_address_and_only_while_it_is_asked_for() -> None:
    pair = Pair([BETA])
    answer = pair.answer()
    pair.alpha.datagram_received(answer, ("127.0.0.1", 3))
    assert pair.passing() == frozenset() and refused(pair.alpha) == {"unannounced": 1}
    pair.alpha.datagram_received(answer, BETA_AT)
    pair.alpha.datagram_received(answer, BETA_AT)
    assert pair.passing() == {BETA}
    assert refused(pair.alpha) == {"unannounced": 1, "unasked": 1}, "a replayed answer is none"


def test_an_answer_after_a_second_counts_for_nothing() -> None:
    pair = Pair([BETA])
    answer = pair.answer()
    pair.time.advance_s(1.1)
    pair.alpha.datagram_received(answer, BETA_AT)
    assert pair.passing() == frozenset() and refused(pair.alpha) == {"unasked": 1}
    pair.alpha.ask()
    assert len(pair.alpha._outstanding) == 1, "what is not answered does not add up"


def test_an_answer_with_another_send_time_or_processes_not_asked_for_counts_for_nothing() -> None:
    pair = Pair([])
    ping = pings.open_sealed(KEY, pair.question)
    assert isinstance(ping, Ping)
    later = Pong("site", "beta", "alpha", ping.sent_ns + 10**15, ping.nonce, ping.asked)
    pair.alpha.datagram_received(pings.seal(KEY, later), BETA_AT)
    assert pair.passing() == frozenset() and refused(pair.alpha) == {"unasked": 1}
    stranger = ("riskd-beta-1", BOOT, 1, 1)
    pair.alpha.datagram_received(
        pings.seal(KEY, Pong("site", "beta", "alpha", ping.sent_ns, ping.nonce, [stranger])), BETA_AT
    )
    assert pair.passing() == frozenset() and pair.alpha._answers, "it was an answer, that nobody passes"


def test_another_peer_may_not_answer_for_a_host() -> None:
    """gamma has the key and an address of its own; what was asked of beta only beta answers."""
    pair = Pair([])
    pair.alpha.meet({"gamma": "127.0.0.1:3"})
    ping = pings.open_sealed(KEY, pair.question)
    assert isinstance(ping, Ping)
    for host in ("beta", "gamma"):
        pong = Pong("site", host, "alpha", ping.sent_ns, ping.nonce, ping.asked)
        pair.alpha.datagram_received(pings.seal(KEY, pong), ("127.0.0.1", 3))
    assert pair.passing() == frozenset() and refused(pair.alpha) == {"unannounced": 1, "unasked": 1}
    pair.alpha.meet({"gamma": "127.0.0.1:2"})  # says that it is at beta's
    pair.alpha.datagram_received(
        pings.seal(KEY, Pong("site", "gamma", "alpha", ping.sent_ns, ping.nonce, ping.asked)), BETA_AT
    )
    assert pair.passing() == frozenset() and refused(pair.alpha) == {"unannounced": 1, "unasked": 2}


def test_a_ping_for_another_host_or_site_is_not_answered() -> None:
    pair = Pair([])
    for site, to in (("site", "gamma"), ("elsewhere", "beta")):
        ping = Ping(site, "alpha", to, 1, bytes(8), [])
        pair.beta.datagram_received(pings.seal(KEY, ping), ALPHA_AT)
    assert pair.back.sent == [] and refused(pair.beta) == {"unannounced": 2}


def test_a_ping_from_an_address_that_is_not_announced_is_not_answered() -> None:
    pair = Pair([BETA])
    pair.beta.datagram_received(pair.question, ("127.0.0.1", 9))
    assert pair.back.sent == [] and refused(pair.beta) == {"unannounced": 1}


def test_a_replayed_ping_is_answered_no_larger_and_only_to_the_announced_address() -> None:
    pair = Pair([BETA])
    for _ in range(3):
        pair.beta.datagram_received(pair.question, ALPHA_AT)
    assert [address for _, address in pair.back.sent] == [ALPHA_AT] * 3
    for data, _ in pair.back.sent:
        pair.alpha.datagram_received(data, BETA_AT)
    assert pair.passing() == {BETA} and refused(pair.alpha) == {"unasked": 2}


def forged(data: bytes) -> bytes:
    return hashlib.blake2b(data[16:], key=b"another key", digest_size=16).digest() + data[16:]


def test_noise_is_counted_by_kind_dropped_and_never_answered() -> None:
    pair = Pair([BETA])
    good = pair.question
    for data in (b"", b"\xff", good[:16], bytes(pings.DATAGRAM_BYTES_MAX + 1), good + bytes(5000)):
        pair.beta.datagram_received(data, ALPHA_AT)
    assert (pair.beta.undecodable, refused(pair.beta)) == (5, {})
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    for data in (b"ping" * 10, good[:-1], good + b"\0", flipped, forged(good), good[16:]):
        pair.beta.datagram_received(data, ALPHA_AT)
    assert (pair.beta.undecodable, refused(pair.beta)) == (5, {"forged": 6})
    for body in (b"x", msgspec.msgpack.encode(["pong", 1]), b"\x91" * 2000):
        mac = hashlib.blake2b(body, key=KEY, digest_size=16).digest()
        pair.beta.datagram_received(mac + body, ALPHA_AT)
    assert (pair.beta.undecodable, refused(pair.beta)) == (8, {"forged": 6})
    assert pair.back.sent == []
    pair.alpha.datagram_received(pair.answer(), BETA_AT)
    assert pair.passing() == {BETA}, "and the next good one counts"


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_raise_or_are_answered(data: bytes, sealed: bool) -> None:
    pair = Pair([BETA])
    if sealed:
        data = hashlib.blake2b(data, key=KEY, digest_size=16).digest() + data
    pair.beta.datagram_received(data, ALPHA_AT)
    pair.alpha.datagram_received(data, BETA_AT)
    assert pair.back.sent == [] and pair.passing() == frozenset()


def test_without_a_key_nothing_is_sent_answered_or_believed() -> None:
    pair = Pair([BETA])
    answer = pair.answer()
    pair.alpha.key = pair.beta.key = None
    pair.alpha.ask()
    pair.beta.datagram_received(pair.question, ALPHA_AT)
    pair.alpha.datagram_received(answer, BETA_AT)
    assert (len(pair.out.sent), len(pair.back.sent), pair.passing()) == (1, 1, frozenset())
    assert refused(pair.alpha) == refused(pair.beta) == {"no_key": 1}


long = st.text("é-x", min_size=1, max_size=32)
some = st.builds(Process, long, st.just(BOOT), st.integers(1, 2**31 - 1), st.integers(0, 2**63 - 1))


@given(st.lists(some, max_size=40, unique=True), st.data())
def test_an_answer_is_never_larger_than_its_question_and_both_are_bounded(
    processes: list[Process], data: st.DataObject
) -> None:
    fit = [process for process in processes if data.draw(st.booleans())]
    pair = Pair(fit, processes)
    for question, _ in pair.out.sent:
        pair.beta.datagram_received(question, ALPHA_AT)
    assert len(pair.out.sent) == len(pair.back.sent)
    for (question, _), (answer, _) in zip(pair.out.sent, pair.back.sent, strict=True):
        assert len(answer) <= len(question) <= pings.DATAGRAM_BYTES_MAX
        pair.alpha.datagram_received(answer, BETA_AT)
    assert pair.passing() == frozenset(fit)


def test_processes_that_no_process_can_be_are_not_asked_for_and_harm_no_other() -> None:
    """Electable records come from the store."""
    wild = [
        Process("x" * 5_000, BOOT, 1, 1),
        Process("omsd-beta-1", "b" * 5_000, 1, 1),
        Process("omsd-beta-1", BOOT, 10**30, 1),
        Process("omsd-beta-1", BOOT, 1, -(10**30)),
        Process("omsd-beta-1", BOOT, 0, 1),
        Process("", BOOT, 1, 1),
    ]
    pair = Pair([BETA], [*wild, BETA])
    pair.alpha.datagram_received(pair.answer(), BETA_AT)
    assert pair.passing() == {BETA} and len(pair.out.sent) == 1


def test_the_golden_datagram() -> None:
    """docs/protocol.md shows it; a keeper in another language must write the same."""
    ping = Ping("lab", "alpha", "beta", 5, bytes(range(8)), [("omsd-beta-1", BOOT, 4711, 123456)])
    assert pings.seal(KEY, ping).hex() == GOLDEN.replace("\n", "")


GOLDEN = """
9feb4b861032ca691761d3bcf85fb874
97a470696e67a36c6162a5616c706861a46265746105c40800010203040506079194ab6f6d73642d626574612d31
d92430663165326433632d346235612d343637382d383961622d636465663031323334353637cd1267ce0001e240
"""


# --- where peers are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version", "found"),
    [
        ("127.0.0.1:1", 4, ("127.0.0.1", 1)),
        ("10.1.2.3:65535", 4, ("10.1.2.3", 65535)),
        ("[::1]:1", 6, ("::1", 1)),
    ],
)
def test_literal_addresses_are_taken(text: str, version: int, found: tuple[str, int]) -> None:
    assert peers.parse_address(text, version) == found


BAD = (
    "x:99999",
    "127.0.0.1:99999",
    "127.0.0.1:0",
    "127.0.0.1:-1",
    "127.0.0.1:١",
    "127.0.0.1",
    "127.0.0.1:",
    ":1",
    "localhost:4000",
    "beta.example:4000",
    "0.0.0.0:4000",
    "224.0.0.1:4000",
    "[::1]:1",
    "::1:1",
    "127.1:4000",
    "a" * 5_000 + ":1",
    "127.0.0.1:" + "1" * 5_000,
    "127.0.0.1\0:1",
    "\x1b[2J:1",
)


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_literal_address_is_refused_by_name_and_the_last_good_one_stays(
    bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Pair([BETA])
    for _ in range(3):  # its agent writes it each second
        pair.alpha.meet({"beta": bad, "gamma": bad})
    assert pair.alpha.undecodable == 2, "counted once a value and host"
    pair.alpha.ask()
    assert [address for _, address in pair.out.sent] == [BETA_AT, BETA_AT]
    with pytest.raises(InvalidInput, match=r"^keeper '.*': expected IPv4:PORT of one host"):
        peers.parse_address(bad)


def test_more_hosts_than_a_site_has_are_refused() -> None:
    pair = Pair()
    pair.alpha.meet({f"host-{n}": f"127.0.0.1:{n + 1}" for n in range(peers.PEERS_MAX + 10)})
    assert len(pair.alpha._addresses) == peers.PEERS_MAX and pair.alpha.undecodable == 11
    pair.alpha.ask()
    assert len(pair.out.sent) == 1 + peers.PEERS_MAX


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_over_sockets_a_bad_record_closes_no_keeper_s_socket(address: str) -> None:
    """As before, but with a kernel: a port that nobody has, and every bad address, beside a good peer."""

    async def case() -> None:
        time = clock.FakeClock()
        fit = [BETA]
        alpha = peers.Peers("site", "alpha", time, list, lambda: {"beta": fit})
        beta = peers.Peers("site", "beta", time, lambda: fit, dict)
        for one in (alpha, beta):
            one.key = KEY
            await one.open(address)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind((address, 0))
            port = gone.getsockname()[1]
        unreachable = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        alpha.meet({**{f"bad-{n}": bad for n, bad in enumerate(BAD)}, "gone": unreachable})
        alpha.meet({"beta": beta.address})
        beta.meet({"alpha": alpha.address})
        try:
            async with asyncio.timeout(10):
                for _ in range(3):
                    alpha.ask()
                    await asyncio.sleep(0.02)
                while not alpha.passing(time.boot_ns(), 200 * MS):
                    alpha.ask()
                    await asyncio.sleep(0.01)
        finally:
            alpha.close()
            beta.close()

    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        pytest.skip(f"no {address} here")
    asyncio.run(case())


def test_whose_an_instance_is() -> None:
    assert host_of("omsd-beta-1", "omsd") == "beta"
    assert host_of("strategy-mm-rack-2-host-1", "strategy-mm") == "rack-2-host"
    assert host_of("riskd-beta-1", "omsd") == host_of("omsd", "omsd") == host_of("omsd-", "omsd") == ""
