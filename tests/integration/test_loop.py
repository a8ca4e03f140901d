"""The poll loop over real sockets: hello and status reach the agent, a question is answered, the word is
obeyed, stop stops.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from agents.keeper import words
from controlplane.host import identity
from controlplane.leadership.group_view import Lead
from hftd import bus, runtime
from hftd.runtime import loop as loops
from hftd.runtime.context import Config
from hftd.shm import bell, pages
from hftd.wire import codec, control
from tests.support import daemons

TIMEOUT_MS = 20_000


class Agent:
    """The agent's end of HFT_AGENT, driven by the test."""

    def __init__(self, endpoint: str) -> None:
        self.router = bus.link.Router(endpoint)
        self.link = b""
        """Of the daemon, from what it said last."""

    def wait(self, wanted: Callable[[control.FromDaemon], bool]) -> control.FromDaemon:
        while self.router.socket.poll(TIMEOUT_MS):
            self.link, frame = self.router.socket.recv_multipart()
            message = control.decode_from_daemon(frame)
            if wanted(message):
                return message
        raise AssertionError("the daemon did not say it in time")

    def send(self, make: Callable[..., control.FromAgent], *fields: object) -> None:
        assert self.router.send(self.link, codec.encode(make(codec.VERSION, 1, 0, "agent", None, *fields)))


@pytest.fixture
def context(tmp_path: Path) -> runtime.Context:
    me = identity.identify("omsd-alpha-1")
    assert me is not None
    lease, alive = tmp_path / "o.lease", tmp_path / "o.alive"
    pages.create(lease, pages.LEASE_MAGIC)
    pages.create(alive, pages.ALIVE_MAGIC)
    config = Config(1, "omsd", tmp_path, tmp_path, tmp_path / "data", tmp_path / "journal", {})
    return runtime.Context(
        site="lab",
        host="alpha",
        service="omsd",
        process=me,
        config=config,
        agent_endpoint=f"ipc://{tmp_path}/bus",
        alive=alive,
        lease_word=lease,
    )


def test_a_daemon_says_hello_answers_obeys_the_word_and_stops(
    context: runtime.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the loop runs in a thread here
    agent = Agent(f"ipc://{tmp_path}/bus")
    loop = runtime.Loop(context)
    context.bind("replica")
    context.event("simd.recovered", orders=2)
    led: list[tuple[pages.Wanted, int]] = []
    loop.on_ask("orders", lambda args: {"seen": args["n"]})
    loop.on_lease(lambda lease: led.append((lease.wanted, lease.epoch)))
    peers: list[list[control.Peer]] = []
    loop.on_peers("execd", peers.append)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        hello = agent.wait(lambda message: isinstance(message, control.Hello))
        assert isinstance(hello, control.Hello) and hello.endpoints == {
            "replica": f"ipc://{tmp_path}/omsd-alpha-1.replica"
        }
        agent.send(control.Welcome, 1)
        event = agent.wait(lambda message: isinstance(message, control.Event))
        assert isinstance(event, control.Event) and (event.kind, event.fields) == (
            "simd.recovered",
            {"orders": 2},
        ), "kept until somebody knows it"
        agent.send(
            control.Peers,
            "execd",
            "execd",
            [control.Peer("execd-alpha-1", {"orders": "ipc://x"}, "leader", 3)],
        )
        agent.send(control.Ask, 5, "orders", {"n": 8})
        answer = agent.wait(lambda message: isinstance(message, control.Answer))
        assert isinstance(answer, control.Answer) and (answer.ask, answer.ok, answer.body) == (
            5,
            True,
            {"seen": 8},
        )
        assert context.endpoint("execd", "orders") == "ipc://x" and len(peers) == 1

        with pages.LeasePage(tmp_path / "o.lease", writable=True) as keeper:
            keeper.write(pages.LeaseWord(context.process, 1, 4, pages.Wanted.LEAD, 1 << 62))
        context.set_ready(True)
        agent.wait(lambda message: isinstance(message, control.Status) and message.ready)
        agent.wait(lambda message: isinstance(message, control.Status))
        assert (pages.Wanted.LEAD, 4) in led and context.lease.leads()

        agent.router.send(agent.link, b"noise")
        agent.send(control.Ask, 6, "weather", {})
        refusal = agent.wait(lambda message: isinstance(message, control.Answer) and message.ask == 6)
        assert isinstance(refusal, control.Answer) and not refusal.ok and "orders" in refusal.body
        assert context.counters["undecodable"] == 1
    finally:
        agent.send(control.Stop, 1.0)
        thread.join(timeout=20)
    assert not thread.is_alive()
    agent.router.close()


def test_the_bell_that_the_keeper_rings_wakes_the_loop(
    context: runtime.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With looks an hour apart only the bell can tell it in time."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(loops, "WORD_POLL_MS", 3_600_000)
    monkeypatch.setattr(loops, "STATUS_EVERY_S", 3_600.0)
    loop, begun, led = runtime.Loop(context), threading.Event(), threading.Event()
    loop.on_lease(lambda lease: (led if lease.wanted is pages.Wanted.LEAD else begun).set())
    thread = threading.Thread(target=loop.run)
    thread.start()
    keeper = words.Words(tmp_path / "o.lease", tmp_path / "o.alive")
    try:
        assert begun.wait(20)
        keeper.arm(Lead(context.process, 1, 4), 1 << 61)
        assert led.wait(20)
    finally:
        loop.stop()
        bell.ring(tmp_path / "o.lease")
        thread.join(timeout=20)
        keeper.close()
    assert not thread.is_alive()


def test_a_keeper_rings_at_each_change_of_the_word_and_not_at_a_renewal(
    context: runtime.Context, tmp_path: Path
) -> None:
    keeper, listening, lead = (
        words.Words(tmp_path / "o.lease", tmp_path / "o.alive"),
        bell.Bell(tmp_path / "o.lease"),
        Lead(context.process, 1, 4),
    )

    def rang() -> bool:
        heard = bool(select.select([listening], [], [], 0)[0])
        listening.drain()
        return heard

    keeper.arm(lead, 1 << 61)
    assert rang()
    keeper.arm(lead, 1 << 62)
    assert not rang() and context.lease.lease().valid_until_ns == 1 << 62
    keeper.hand_over(lead)
    assert rang()
    keeper.stand_by(lead)
    assert rang()
    listening.close()
    keeper.close()


def test_a_daemon_takes_the_scheduling_of_its_spec_with_all_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HFT_SCHED", "batch")
    with daemons.daemon(tmp_path, "bookd") as bookd:
        bookd.start()
        assert bookd.process is not None
        threads = [int(thread.name) for thread in Path(f"/proc/{bookd.process.pid}/task").iterdir()]
        assert len(threads) > 1 and {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}


def test_a_floor_finds_its_config_in_the_environment(tmp_path: Path) -> None:
    config = {"revision": 3, "daemon": "bookd", "settings": {"depth": 5}}
    config |= {key: str(tmp_path / key) for key in ("run_dir", "site_dir", "data_dir", "journal_dir")}
    (tmp_path / "c.json").write_text(json.dumps(config))
    pages.create(tmp_path / "a", pages.ALIVE_MAGIC)
    found = runtime.Context.from_environment(
        {
            "HFT_SITE": "lab", "HFT_HOST": "alpha", "HFT_SERVICE": "bookd", "HFT_INSTANCE": "bookd-alpha-1",
            "HFT_CONFIG": str(tmp_path / "c.json"),
            "HFT_AGENT": f"ipc://{tmp_path}/bus", "HFT_ALIVE": str(tmp_path / "a"),
        }
    )  # fmt: skip
    assert found.config.settings == {"depth": 5} and found.data_dir.is_dir()
    assert not found.lease.has_lease and not found.lease.leads()


def test_a_dealer_sends_nothing_to_a_peer_that_is_not_there(tmp_path: Path) -> None:
    dealer = bus.link.Dealer("me", f"ipc://{tmp_path}/nobody")
    assert not dealer.send(b"order")
    dealer.close()
    assert zmq.Context.instance() is not None
