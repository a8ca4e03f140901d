"""The agent's side of HFT_AGENT: one ZeroMQ ROUTER for all daemons of the host, in the event loop.

A daemon says hello, is welcomed, reports once a second, and answers what it is asked; it is told who its
peers are at hello and at each change. Only the process that the supervisor runs under a name is believed,
over the connection that it said hello on first: a hello of another (an earlier process, a stranger, even one
that names the right process) is counted and dropped, as is whatever does not decode.
Messages are in hftd/wire/control.py; who the peers are is worked out in view.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

from controlplane.errors import InvalidInput, Retryable
from controlplane.model import Process, Token
from hftd.wire import codec, control

RATE_OVER_S = 0.9
"""Rates are taken over at least this long: a status that comes early, because readiness changed, must not
make a spike."""
QUEUE_MAX = 4096
"""Messages waiting for one daemon; one that leaves this many unread is not alive."""


@dataclass(slots=True)
class Reported:
    """What one process has said since its hello."""

    process: Process
    daemon: str
    version: str
    endpoints: dict[str, str]
    link: bytes
    """The identity of its connection."""
    status: control.Status | None = None
    status_mono_s: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)
    told: dict[str, list[control.Peer]] = field(default_factory=dict)
    """Peers of each service, as last sent."""
    tokens: list[codec.TokenOnWire] | None = None
    """The store's, as last sent."""
    overrides: list[control.OverrideOnWire] | None = None
    """Of circuit breakers, as last sent."""
    flags: Mapping[str, Any] | None = None
    """The site's plain keys, as last sent."""
    settings: tuple[int, Mapping[str, object]] | None = None
    """With their revision, as last sent."""
    _rated: tuple[float, Mapping[str, int]] = (0.0, {})

    def take(self, status: control.Status, now_mono_s: float) -> None:
        then_mono_s, counters = self._rated
        if now_mono_s - then_mono_s >= RATE_OVER_S:
            if then_mono_s:
                passed_s = now_mono_s - then_mono_s
                self.rates = {
                    name: (value - counters.get(name, 0)) / passed_s
                    for name, value in status.counters.items()
                }
            self._rated = (now_mono_s, status.counters)
        self.status, self.status_mono_s = status, now_mono_s


class Host(Protocol):
    """What the bus needs to know and whom it tells."""

    def believes(self, process: Process) -> int | None:
        """The revision of the settings that this process was started with; None: it is not the one that runs
        under its name.
        """

    def heard(self, report: Reported, message: control.FromDaemon) -> None:
        """A hello, a status or an event has come in."""


class Bus:
    def __init__(self, endpoint: str, source: str, host: Host) -> None:
        self._endpoint, self._source, self._host = endpoint, source, host
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, QUEUE_MAX), (zmq.RCVHWM, QUEUE_MAX)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(
            zmq.ROUTER_HANDOVER, 1
        )  # a connection that broke comes back with its identity
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # who is gone is an error here, not silence
        self._seq = 0
        self._asks = 0
        self._waiting: dict[int, tuple[str, asyncio.Future[control.Answer]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reports: dict[str, Reported] = {}
        self._names: dict[bytes, str] = {}
        """Whose connection it is, by its identity."""
        self.undecodable = 0
        self.disbelieved = 0

    def __repr__(self) -> str:
        return f"<Bus {self._endpoint}: {len(self.reports)} daemons, {self.undecodable} undecodable>"

    def open(self) -> None:
        """Bind and read from now on, in the running event loop."""
        self._socket.bind(self._endpoint)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._drain)
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop = None
        for _, future in self._waiting.values():
            future.cancel()
        self._socket.close()
        self._context.term()

    # --- in -------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """The socket's fd signals edges, so it is read until there is nothing."""
        try:
            while True:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
                self._receive(frames)
        except zmq.Again:
            pass
        except zmq.ZMQError:
            if not self._socket.closed:
                raise

    def _receive(self, frames: list[bytes]) -> None:
        try:
            if len(frames) != 2:
                raise InvalidInput(f"{len(frames)} frames, wanted identity and message")
            link, message = frames[0], control.decode_from_daemon(frames[1])
        except InvalidInput:
            self.undecodable += 1
            return
        name = self._names.get(link, "")
        if isinstance(message, control.Answer):
            self._answered(name, message)
            return
        if isinstance(message, control.Hello):
            self._hello(link, message)
            return
        report = self.reports.get(name)
        if report is None:
            self.disbelieved += 1  # we are new: its next hello is on the way
            return
        if isinstance(message, control.Status):
            report.take(message, time.monotonic())
        self._host.heard(report, message)

    def _hello(self, link: bytes, hello: control.Hello) -> None:
        process = Process(
            hello.process.instance, hello.process.boot_id, hello.process.pid, hello.process.start_time
        )
        name = process.instance
        revision = self._host.believes(process) if _may_name(link, name) else None
        report = self.reports.get(name)
        if revision is None or (report is not None and self._elsewhere(report, process, link, revision)):
            self.disbelieved += 1
            return
        if report is None or report.process != process:
            report = Reported(process, hello.daemon, hello.version_text, hello.endpoints, link)
        else:
            report.endpoints, report.link = hello.endpoints, link
        self.adopt(report)
        self._send(name, control.Welcome, revision)
        self._host.heard(report, hello)

    def _elsewhere(self, known: Reported, process: Process, link: bytes, revision: int) -> bool:
        """Does this process speak over another connection, which still stands? It has one for life."""
        return (
            known.process == process
            and known.link != link
            and self._send(process.instance, control.Welcome, revision)
        )

    def _answered(self, name: str, answer: control.Answer) -> None:
        asked, future = self._waiting.get(answer.ask, (None, None))
        if future is not None and asked == name and not future.done():
            future.set_result(answer)

    # --- out ------------------------------------------------------------------------------------------------

    def _send(self, name: str, make: Callable[..., control.FromAgent], *fields: Any) -> bool:
        self._seq += 1
        message = make(codec.VERSION, self._seq, time.time_ns(), self._source, None, *fields)
        try:
            self._socket.send_multipart([self.reports[name].link, codec.encode(message)], zmq.DONTWAIT)
        except (zmq.ZMQError, OverflowError, RecursionError):
            # Gone (EHOSTUNREACH) or reading nothing (EAGAIN): it will say hello again or die. Or a number of
            # over 64 bits in a spec that another client wrote: nobody can send it.
            return False
        finally:
            if self._loop is not None:
                self._loop.call_soon(
                    self._drain
                )  # sending may use up the edge of a message that has just come
        return True

    def peers(self, name: str, service: str, daemon: str, peers: list[control.Peer]) -> None:
        """Tell a daemon who serves, unless that is what it heard last."""
        report = self.reports.get(name)
        if report is None or report.told.get(service) == peers:
            return
        if self._send(name, control.Peers, service, daemon, peers):
            report.told[service] = peers

    def tokens(self, name: str, tokens: list[codec.TokenOnWire]) -> None:
        """Tell a daemon what the store holds, unless that is what it heard last."""
        report = self.reports.get(name)
        if report is None or report.tokens == tokens:
            return
        if self._send(name, control.Tokens, tokens):
            report.tokens = tokens

    def overrides(self, name: str, overrides: list[control.OverrideOnWire]) -> None:
        """Tell a daemon what operators have forced, unless that is what it heard last. Of none, nothing is
        said (an older daemon does not know the message) but to one that obeys what an earlier agent told it.
        """
        report = self.reports.get(name)
        if report is None or report.overrides == overrides:
            return
        forced = report.status is not None and any(each.forced for each in report.status.breakers)
        if report.overrides is None and not overrides and not forced:
            return
        if self._send(name, control.Overrides, overrides):
            report.overrides = overrides

    def flags(self, name: str, flags: Mapping[str, Any]) -> None:
        """Tell a daemon the site's plain keys, unless that is what it heard last. Of none, nothing is said to
        a daemon of an earlier release, which does not know the message; it says no revision of its settings.
        """
        report = self.reports.get(name)
        if report is None or report.flags == flags:
            return
        knows = report.status is not None and report.status.config_revision > 0
        if report.flags is None and not flags and not knows:
            return
        if self._send(name, control.Flags, dict(flags)):
            report.flags = flags

    def reload(self, name: str, revision: int, settings: Mapping[str, object]) -> None:
        """Tell a daemon the settings that are wanted, unless that is what it heard last."""
        report = self.reports.get(name)
        if report is None or report.settings == (revision, settings):
            return
        if self._send(name, control.Reload, revision, dict(settings)):
            report.settings = revision, settings

    async def ask(self, name: str, what: str, args: dict[str, Any], timeout_s: float) -> control.Answer:
        """Ask a daemon and wait for its answer.

        Raises:
            Retryable: it is not here or did not answer in time.
        """
        return await self._answer_to(name, repr(what), timeout_s, control.Ask, what, args)

    async def reset_fence(
        self, name: str, store: Token, claimant: Process, admitted: int, timeout_s: float
    ) -> control.Answer:
        """Set a receiver's fence to the store's token. Raises as `ask` does; then it may have been done."""
        fields = (codec.TokenOnWire.of(store), codec.ProcessOnWire.of(claimant), admitted)
        return await self._answer_to(name, "the reset of a fence", timeout_s, control.FenceReset, *fields)

    async def _answer_to(
        self, name: str, what: str, timeout_s: float, make: Callable[..., control.FromAgent], *fields: Any
    ) -> control.Answer:
        assert self._loop is not None, "asking needs an open bus"
        self._asks += 1
        ask = self._asks
        future: asyncio.Future[control.Answer] = self._loop.create_future()
        self._waiting[ask] = (name, future)
        try:
            if name not in self.reports or not self._send(name, make, ask, *fields):
                raise Retryable(f"instance {name}: not connected to its agent")
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as exc:
            raise Retryable(f"instance {name}: no answer to {what} within {timeout_s:g} s") from exc
        finally:
            del self._waiting[ask]

    def adopt(self, report: Reported) -> None:
        """Believe what comes over this report's connection, and nothing of this name over another."""
        name = report.process.instance
        self.forget(name)
        self.reports[name] = report
        self._names[report.link] = name

    def forget(self, name: str) -> None:
        """Its process is gone."""
        self.reports.pop(name, None)
        self._names = {link: each for link, each in self._names.items() if each != name}


def _may_name(link: bytes, instance: str) -> bool:
    """An identity is the instance id, a dot and a random part, or (an older daemon's) the id alone."""
    name = instance.encode()
    return link == name or link.startswith(name + b".")
