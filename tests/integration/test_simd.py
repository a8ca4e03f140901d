"""simd as a process: the tape leaves verbatim, orders trade against it, and what a kill -9 and a stop leave
behind.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from hftd import bus
from hftd.engine import accounts, reasons
from hftd.shm import pages
from hftd.venues import binance
from hftd.wire import codec, control, feed, orders, requests
from hftd.wire.orders import Kind, OrderState, Side
from tests.support import claims, store_tokens

TIMEOUT_MS = 20_000
INSTANCE = "simd-alpha-1"
UNIT = accounts.UNIT
START_NS = 1_723_161_255_000_000_000
FAR_NS = 50 * 1_000_000_000
"""Longer than the test, and short enough for the tape to wait for it."""
CLAIMANT = codec.ProcessOnWire("execd-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 1, 1)


def receive(socket: zmq.Socket[bytes]) -> bytes:
    assert socket.poll(TIMEOUT_MS), "nothing came in time"
    return socket.recv_multipart()[-1]


class Simd:
    """One floor's folders, an agent's end of its bus, and as many simd processes as the test starts, one at a
    time.
    """

    def __init__(self, folder: Path, lines: list[tuple[int, bytes]], speed: str) -> None:
        self.folder, self.process = folder, None
        tape = folder / "spot" / "btcusdt_20240808.gz"
        tape.parent.mkdir()
        tape.write_bytes(
            gzip.compress(b"".join(b"%d %s\n" % (START_NS + after_ns, raw) for after_ns, raw in lines))
        )
        config = {"revision": 1, "daemon": "simd", "settings": {"tape": [str(tape)], "speed": speed}}
        config |= {
            "run_dir": str(folder),
            "site_dir": str(folder),
            "data_dir": str(folder / "data"),
            "journal_dir": str(folder / "journals"),
        }
        (folder / "config.json").write_text(json.dumps(config))
        pages.create(folder / "alive", pages.ALIVE_MAGIC)
        self.agent = bus.link.Router(f"ipc://{folder}/bus")
        self.link = b""
        """Of the process that said something last."""
        self.pull = bus.pipeline.Pull(f"ipc://{folder}/{INSTANCE}.feed")
        self.market = bus.link.Dealer("marketd-alpha-1", f"ipc://{folder}/{INSTANCE}.snapshots")
        self.execd = bus.link.Dealer("execd-alpha-1-1", f"ipc://{folder}/{INSTANCE}.orders")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        given = {
            "SITE": "lab",
            "HOST": "alpha",
            "SERVICE": "simd",
            "INSTANCE": INSTANCE,
            "AGENT": f"ipc://{self.folder}/bus",
        }
        given |= {"ALIVE": str(self.folder / "alive"), "CONFIG": str(self.folder / "config.json")}
        environment = os.environ | {f"HFT_{name}": value for name, value in given.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hftd", "simd"], env=environment, stdout=subprocess.DEVNULL
        )

    def end(self, how: int) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(20)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        for each in (self.agent, self.pull, self.market, self.execd):
            each.close()

    def said(self, wanted: Callable[[control.FromDaemon], bool]) -> Any:
        for _ in range(1000):
            assert self.agent.socket.poll(TIMEOUT_MS), "nothing came in time"
            self.link, frame = self.agent.socket.recv_multipart()
            message = control.decode_from_daemon(frame)
            if wanted(message):
                return message
        raise AssertionError("the daemon did not say it")

    def lines(self, count: int) -> tuple[set[int], list[bytes]]:
        """(sessions, raw lines) of the next frames, until there are so many. Beats are left out: those of a
        killed process wait in the pipe.
        """
        sessions, found = set(), []
        while len(found) < count:
            frame = receive(self.pull.socket)
            head = feed.header(frame)
            if head.lines:
                sessions.add(head.session)
            found += [line.raw for line in feed.lines(frame)]
        return sessions, found

    def order_path(self, message: orders.TowardsVenue) -> None:
        assert self.execd.socket.poll(TIMEOUT_MS, zmq.POLLOUT)
        assert self.execd.send(codec.encode(message))

    def back(self) -> Any:
        return orders.decode_coming_back(receive(self.execd.socket))

    def fence(self) -> None:
        if not self.link:
            self.said(lambda message: isinstance(message, control.Hello))
        assert self.agent.send(self.link, codec.encode(store_tokens.told()))
        for group in ("execd", "omsd"):
            answer = self.fence_once(group)
            while answer.waits:  # the agent's word comes over another socket
                answer = self.fence_once(group)
            assert answer.ok, answer

    def fence_once(self, group: str) -> orders.Fenced:
        fence = orders.Fence(*envelope(group), CLAIMANT, codec.TokenOnWire(1, "execd", 1))
        self.order_path(claims.signed(fence, self.execd, self.folder))
        answer = self.back()
        assert isinstance(answer, orders.Fenced)
        return answer

    def accounts(self) -> tuple[list[orders.Account], int]:
        self.order_path(orders.AccountsWanted(*envelope("omsd"), 1))
        answer = self.back()
        return answer.accounts, answer.last_execution


def envelope(group: str) -> tuple[int, int, int, str, codec.TokenOnWire]:
    return (codec.VERSION, 1, 0, "execd-alpha-1", codec.TokenOnWire(1, group, 1))


def place(order_id: str, price: int) -> orders.Place:
    gateway = codec.TokenOnWire(1, "execd", 1)
    fields = (
        "c-" + order_id,
        "strategy-mm",
        "spot",
        "BTCUSDT",
        Side.BUY,
        Kind.LIMIT,
        price * UNIT,
        UNIT,
        0,
        0,
        order_id,
    )
    return orders.Place(*envelope("omsd"), *fields, gateway=gateway)


def diff(last: int) -> bytes:
    return binance.diff("BTCUSDT", 1, last, last, [(99 * UNIT, last * UNIT)], [])


SNAPSHOT = binance.snapshot(10, [(100 * UNIT, 5 * UNIT)], [(102 * UNIT, 5 * UNIT)])


@pytest.fixture
def simd(tmp_path: Path) -> Iterator[Callable[..., Simd]]:
    with contextlib.ExitStack() as stack:

        def make(lines: list[tuple[int, bytes]], speed: str = "1") -> Simd:
            made = Simd(tmp_path, lines, speed)
            stack.callback(made.close)
            return made

        yield make


def test_a_killed_venue_cancels_and_goes_on_and_a_stopped_one_begins_anew(simd: Callable[..., Simd]) -> None:
    """Executions and accounts outlive both; the session changes, so that whoever reads the feed starts its
    books again.
    """
    raws = [SNAPSHOT, diff(11), diff(12)]
    floor = simd([*enumerate(raws), (FAR_NS, diff(13)), (2 * FAR_NS, diff(14))])
    floor.start()
    first, lines = floor.lines(3)
    assert lines == raws
    floor.said(
        lambda message: (
            isinstance(message, control.Status) and message.ready and message.counters.get("messages") == 3
        )
    )

    asks = [
        requests.InstrumentsWanted(codec.VERSION, 1, 0, "m", None),
        requests.SnapshotWanted(codec.VERSION, 2, 0, "m", None, 0),
    ]
    for ask in asks:
        assert floor.market.socket.poll(TIMEOUT_MS, zmq.POLLOUT) and floor.market.send(codec.encode(ask))
    listed = requests.decode_answered(receive(floor.market.socket))
    assert isinstance(listed, requests.Instruments) and [each.name for each in listed.instruments] == [
        "spot:BTCUSDT"
    ]
    shown = requests.decode_answered(receive(floor.market.socket))
    assert isinstance(shown, requests.SnapshotFrame) and shown.receive_ns == START_NS + 2
    assert shown.raw == b'{"lastUpdateId":12,"bids":[["100","5"],["99","12"]],"asks":[["102","5"]]}'

    floor.execd.send(b"noise")
    floor.fence()
    copied = orders.Fence(*envelope("omsd"), CLAIMANT, codec.TokenOnWire(1, "execd", 1))
    floor.order_path(claims.signed(copied, b"elsewhere", floor.folder))
    assert (refused := floor.back()).reason == reasons.FORGED_CLAIM and not refused.ok
    floor.order_path(place("taken", 102))
    assert (taken := floor.back()).state is OrderState.FILLED and taken.execution_id == 1
    floor.order_path(place("working", 99))
    assert floor.back().state is OrderState.WORKING
    assert floor.accounts() == ([orders.Account("spot", "BTCUSDT", UNIT, -102 * UNIT)], 1)
    floor.said(
        lambda message: isinstance(message, control.Status) and message.counters.get("undecodable") == 1
    )

    floor.end(signal.SIGKILL)
    floor.start()
    lost = floor.back()
    assert (lost.order_id, lost.state, lost.reason) == (
        "working",
        OrderState.CANCELLED,
        reasons.VENUE_RESTART,
    ), "told without being asked"
    second, lines = floor.lines(1)
    assert lines == [diff(13)] and second.isdisjoint(first)
    floor.order_path(place("old", 101))  # fences outlive it: no new Fence was needed
    assert floor.back().state is OrderState.WORKING
    assert floor.accounts() == ([orders.Account("spot", "BTCUSDT", UNIT, -102 * UNIT)], 1)

    floor.end(signal.SIGTERM)
    assert floor.process is not None and floor.process.returncode == 0
    floor.start()
    stopped = floor.back()
    assert (stopped.order_id, stopped.state, stopped.reason) == (
        "old",
        OrderState.CANCELLED,
        reasons.VENUE_RESTART,
    )
    third, lines = floor.lines(3)
    assert lines == raws and third.isdisjoint(first | second)
    assert floor.accounts() == ([orders.Account("spot", "BTCUSDT", UNIT, -102 * UNIT)], 1)


def test_the_end_of_the_tape_and_its_bad_lines_are_alarms_and_the_venue_stays_ready(
    simd: Callable[..., Simd],
) -> None:
    good = [SNAPSHOT, *(diff(n) for n in range(11, 300))]
    floor = simd(
        [
            (0, good[0]),
            (1, b'{"stream":"btcusdt@trade","data":{'),
            *((2 + n, raw) for n, raw in enumerate(good[1:])),
        ],
        speed="max",
    )
    floor.start()
    sessions, lines = floor.lines(len(good) + 1)
    assert [line for line in lines if line in good] == good and len(sessions) == 1
    status = floor.said(
        lambda message: (
            isinstance(message, control.Status) and any(alarm.id == "tape_end" for alarm in message.alarms)
        )
    )
    alarms = {alarm.id: alarm for alarm in status.alarms}
    assert status.ready and alarms["tape_end"].severity == "info"
    (bad,) = [alarm for alarm in alarms.values() if alarm.id.startswith("tape_bad_lines")]
    assert "btcusdt_20240808.gz line 2: unknown shape" in bad.text
    floor.fence()
    floor.order_path(place("late", 99))
    assert floor.back().reason == reasons.TAPE_END
