"""One real daemon process with the test as its agent and keeper: peers said to it, words written for it, its
status read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from controlplane.host import identity
from hftd import bus
from hftd.shm import pages
from hftd.wire import codec, control, market, requests
from tests.support import store_tokens

WAIT_S = 20.0
"""Generous: a test waits for a condition, not for a speed."""


def wait_for(what: str, found: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what}: not within {WAIT_S:g} s")


def receive(
    socket: zmq.Socket[bytes],
    decode: Callable[[bytes], Any],
    wanted: Callable[[Any], bool] = lambda _: True,
    heard: Callable[[bytes], None] = lambda _: None,
) -> Any:
    """The next message that is wanted; what comes before it is dropped. `heard` is told who sent each."""
    end = time.monotonic() + WAIT_S
    while socket.poll(max(0, int((end - time.monotonic()) * 1000))):
        sender, *_, frame = [b"", *socket.recv_multipart()][-2:]
        heard(sender)
        message = decode(frame)
        if wanted(message):
            return message
    raise AssertionError("it did not come in time")


class Daemon:
    def __init__(
        self,
        folder: Path,
        name: str,
        settings: dict[str, Any] | None = None,
        *,
        service: str = "",
        leads: bool = False,
        host: str = "alpha",
    ) -> None:
        self.folder, self.name, self.service, self.host = folder, name, service or name, host
        self.instance = f"{self.service}-{host}-1"
        config = {"revision": 1, "daemon": name, "settings": settings or {}}
        config |= {
            "run_dir": str(folder),
            "site_dir": str(folder / "site"),
            "data_dir": str(folder / f"data-{self.instance}"),
            "journal_dir": str(folder / f"journal-{self.instance}"),
        }
        (folder / "site").mkdir(exist_ok=True)
        (folder / f"{self.instance}.config").write_text(json.dumps(config))
        pages.create(folder / f"{self.instance}.alive", pages.ALIVE_MAGIC)
        self.leads = leads
        if leads:
            pages.create(folder / f"{self.instance}.lease", pages.LEASE_MAGIC)
        self.agent = bus.link.Router(f"ipc://{folder}/{self.instance}.bus")
        self.process: subprocess.Popen[bytes] | None = None
        self.link = b""
        """The identity of the daemon's connection to us, from what it said last."""
        self._asked = 0

    def endpoint(self, socket: str) -> str:
        return f"ipc://{self.folder}/{self.instance}.{socket}"

    def start(self, *peers: control.Peers) -> None:
        self.spawn()
        self.greet(*peers)

    def spawn(self) -> None:
        given = {
            "SITE": "lab",
            "HOST": self.host,
            "SERVICE": self.service,
            "INSTANCE": self.instance,
            "AGENT": f"ipc://{self.folder}/{self.instance}.bus",
        }
        given |= {
            "ALIVE": str(self.folder / f"{self.instance}.alive"),
            "CONFIG": str(self.folder / f"{self.instance}.config"),
        }
        if self.leads:
            given["LEASE"] = str(self.folder / f"{self.instance}.lease")
        environment = os.environ | {f"HFT_{key}": value for key, value in given.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hftd", self.name], env=environment, stdout=subprocess.DEVNULL
        )

    def greet(self, *peers: control.Peers) -> None:
        assert self.process is not None
        pid = self.process.pid  # what an earlier process has said last may still be here
        self.until(lambda message: isinstance(message, control.Hello) and message.process.pid == pid)
        self.say(control.Welcome(codec.VERSION, 1, 0, "agent", None, 1), store_tokens.told(), *peers)

    def say(self, *messages: control.FromAgent) -> None:
        for message in messages:
            assert self.agent.send(self.link, codec.encode(message))

    def until(self, wanted: Callable[[control.FromDaemon], bool]) -> Any:
        return receive(self.agent.socket, control.decode_from_daemon, wanted, self._heard)

    def _heard(self, sender: bytes) -> None:
        self.link = sender

    def ready(self, ready: bool = True) -> control.Status:
        return self.until(lambda message: isinstance(message, control.Status) and message.ready is ready)

    def counted(self, counter: str, least: int = 1) -> control.Status:
        return self.until(
            lambda message: isinstance(message, control.Status) and message.counters.get(counter, 0) >= least
        )

    def ask(self, what: str) -> Any:
        self._asked += 1
        self.say(control.Ask(codec.VERSION, 1, 0, "agent", None, self._asked, what, {}))
        answer = self.until(
            lambda message: isinstance(message, control.Answer) and message.ask == self._asked
        )
        assert answer.ok, answer.body
        return answer.body

    def lead(self, epoch: int, wanted: pages.Wanted = pages.Wanted.LEAD) -> None:
        assert self.process is not None
        me = identity.identify(self.instance, self.process.pid)
        with pages.LeasePage(self.folder / f"{self.instance}.lease", writable=True) as keeper:
            keeper.write(pages.LeaseWord(me, 1, epoch, wanted, 1 << 62))

    def end(self, how: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
        self.agent.close()


@contextlib.contextmanager
def daemon(
    folder: Path,
    name: str,
    settings: dict[str, Any] | None = None,
    *,
    service: str = "",
    leads: bool = False,
    host: str = "alpha",
) -> Iterator[Daemon]:
    one = Daemon(folder, name, settings, service=service, leads=leads, host=host)
    try:
        yield one
    finally:
        one.close()


def peers(service: str, **endpoints: str) -> control.Peers:
    return control.Peers(
        codec.VERSION,
        1,
        0,
        "agent",
        None,
        service,
        service,
        [control.Peer(f"{service}-alpha-1", endpoints, "", 0)],
    )


class Bookd:
    """The publishing end of `tops` and `marks` in one, one instrument: spot:BTCUSDT."""

    INSTRUMENT = requests.Instrument(3, "spot", "BTCUSDT", -8, -8, "spot")

    def __init__(self, folder: Path) -> None:
        self.publisher = bus.publish.Publisher(f"ipc://{folder}/b.tops")
        self.peers = peers("bookd", tops=f"ipc://{folder}/b.tops", marks=f"ipc://{folder}/b.tops")
        self._batch = market.Batch(time.time_ns())

    def say(
        self,
        kind: market.Kind,
        bids: list[tuple[int, int]],
        asks: list[tuple[int, int]],
        *,
        flags: int = 0,
        payload: bytes = b"",
    ) -> None:
        message = market.Message(3, kind, flags, 1, 1, time.monotonic_ns(), 0, 0, 0, 0, bids, asks, payload)
        self._batch.add(market.pack(message))
        frame = self._batch.flush()
        assert frame is not None
        self.publisher.send(frame)

    def instrument(self) -> None:
        self.say(market.Kind.INSTRUMENT, [], [], payload=requests.encode_instrument(self.INSTRUMENT))

    def top(self, bid: int, ask: int, quantity: int = 100_000_000) -> None:
        self.say(market.Kind.TOP, [(bid, quantity)], [(ask, quantity)])

    def close(self) -> None:
        self.publisher.close()
