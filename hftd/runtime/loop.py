"""THE poll loop: one thread owns every socket, waits in one poll, stamps its own heartbeat, and obeys the
lease page.

A stuck handler stops the heartbeat, and so is seen. Handlers run to the end; they never wait. Between two
polls each ready socket is read at most BURST times, so that no input starves the others, the lease page or
the heartbeat.

Bad input: a handler that raises InvalidInput has met a message that does not decode or cannot be true. The
message is dropped and counted (`undecodable`), and an alarm of that name stands until none has come for a
minute. Any other error ends the daemon, and its agent restarts it; so a handler checks what it computes with.
Settings that do not fit, or that a callback does not take, end nothing (in_force.py).
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import zmq

from controlplane.errors import InvalidInput
from hftd.bus import link
from hftd.runtime.context import Context
from hftd.shm import pages
from hftd.wire import control

BURST = 64
"""Messages taken from one socket before the others get their turn."""
WORD_POLL_MS = 20
"""A daemon with a lease page looks at it at least this often, rung or not. Whatever sends an order asks the
page first."""
IDLE_POLL_MS = 50
"""Without one it wakes for its heartbeat only."""
STATUS_EVERY_S = 1.0
HELLO_SILENCE_S = 2.5
"""The agent answers each hello; unanswered for this long, or after a new agent forgot us, hello goes out
again with the status."""

COUNT_MAX = (1 << 63) - 1
"""A counter stands still here: one over 64 bits could not be sent."""

VERSION_TEXT = "0.1.0"

# Plain integers: flags of the enumerations are objects that every operation makes anew.
_EVENTS, _MORE, _POLLIN, _DONTWAIT = int(zmq.EVENTS), int(zmq.RCVMORE), int(zmq.POLLIN), int(zmq.DONTWAIT)


def waits(socket: zmq.Socket[bytes]) -> bool:
    """A message is there to be read. Asked so, an empty socket costs half of what a refused read does."""
    return bool(int(socket.get(_EVENTS)) & _POLLIN)


FrameHandler = Callable[[bytes], None]
RouterHandler = Callable[[bytes, bytes], None]


def _settle_memory() -> None:
    """What was made while building stays for life: keep the collector off it, and let it run rarely (a daemon
    makes next to no cycles).

    The interpreter hands over between the loop and the journal's thread after 0.5 ms, not 5: a tick must not
    wait for bookkeeping.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.0005)


FAR_NS = 1 << 62


class Timer:
    __slots__ = ("due_ns", "every_ns", "run")

    def __init__(self, seconds: float, run: Callable[[int], None]) -> None:
        self.run, self.every_ns, self.due_ns = run, FAR_NS, FAR_NS
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """From now on every so many seconds; 0: never. The next turn is one period from now, or as soon as
        it already was.
        """
        every_ns = int(seconds * 1e9)
        if every_ns == self.every_ns:
            return
        self.every_ns = every_ns or FAR_NS
        self.due_ns = min(self.due_ns, time.monotonic_ns() + every_ns) if every_ns else FAR_NS


class Loop:
    def __init__(self, context: Context) -> None:
        self.context = context
        self._poller = zmq.Poller()
        self._handlers: list[tuple[zmq.Socket[bytes], Callable[[zmq.Socket[bytes]], None]]] = []
        self._paused: set[zmq.Socket[bytes]] = set()
        self._timers: list[Timer] = []
        self._before_wait: list[Callable[[], None]] = []
        self._on_stop: list[Callable[[], None]] = []
        self._on_lease: list[Callable[[pages.LeaseWord], None]] = []
        self._on_peers: dict[str, list[Callable[[list[control.Peer]], None]]] = {}
        self._on_ask: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self._on_flag: dict[str, list[Callable[[Any, Any], None]]] = {}
        self._on_fence_reset: Callable[[control.FenceReset, Callable[[str], None]], None] | None = None
        self._lease_seen: tuple[object, ...] | None = None
        self._wake_ns: int | None = None
        self._stopping = False
        self._welcomed_ns = 0
        self._said_hello = False
        if context.agent.socket is not None:
            self.on(context.agent.socket, self._from_agent)
        if context.lease.bell is not None:
            self._poller.register(context.lease.bell.fileno(), zmq.POLLIN)
        self._poller.register(context.worker.fileno(), zmq.POLLIN)
        self.every(STATUS_EVERY_S, self._report)

    # --- wiring ---------------------------------------------------------------------------------------------

    def on(self, socket: zmq.Socket[bytes], handler: FrameHandler) -> None:
        """Call the handler with each single-frame message (SUB, PULL, DEALER)."""

        def drain(source: zmq.Socket[bytes]) -> None:
            for _ in range(BURST):
                try:
                    handler(source.recv(_DONTWAIT))
                except InvalidInput as exc:
                    self.context.undecodable(str(exc))
                except zmq.Again:
                    return
                if not waits(source):
                    return

        self._register(socket, drain)

    def on_router(self, socket: zmq.Socket[bytes], handler: RouterHandler) -> None:
        """Call the handler with identity and frame. A ping (bus/link.py) is answered here, as it asks whether
        this loop reads this socket; a message of another shape is counted and dropped.
        """

        def drain(source: zmq.Socket[bytes]) -> None:
            for _ in range(BURST):
                try:
                    identity, frame, parts = source.recv(_DONTWAIT), b"", 1
                    while source.get(_MORE):
                        frame, parts = source.recv(_DONTWAIT), parts + 1
                    if parts == 2:
                        handler(identity, frame)
                    elif parts == 3 and frame == link.PING:
                        link.answer_ping(source, identity)
                    else:
                        raise InvalidInput(f"message of {parts} frames, identity and one frame expected")
                except InvalidInput as exc:
                    self.context.undecodable(str(exc))
                except zmq.Again:
                    return
                if not waits(source):
                    return

        self._register(socket, drain)

    def _register(self, socket: zmq.Socket[bytes], drain: Callable[[zmq.Socket[bytes]], None]) -> None:
        self._handlers.append((socket, drain))
        self._poller.register(socket, zmq.POLLIN)

    def pause(self, socket: zmq.Socket[bytes]) -> None:
        """Stop reading this socket: its sender meets the high-water mark."""
        if socket not in self._paused:
            self._paused.add(socket)
            self._poller.unregister(socket)

    def resume(self, socket: zmq.Socket[bytes]) -> None:
        if socket in self._paused:
            self._paused.remove(socket)
            self._poller.register(socket, zmq.POLLIN)

    def every(self, seconds: float, run: Callable[[int], None]) -> Timer:
        """Call with CLOCK_MONOTONIC ns; a late turn is not made up for. Whose period is a setting keeps the
        timer, and sets it.
        """
        timer = Timer(seconds, run)
        self._timers.append(timer)
        return timer

    def wake_at(self, mono_ns: int) -> None:
        """Do not sleep past this moment (once; the earliest wins): for work that is due between timers, done
        in `before_wait`.
        """
        if self._wake_ns is None or mono_ns < self._wake_ns:
            self._wake_ns = mono_ns

    def before_wait(self, run: Callable[[], None]) -> None:
        """Called each turn when the input has been read: flush what was batched."""
        self._before_wait.append(run)

    def on_peers(self, service: str, run: Callable[[list[control.Peer]], None]) -> None:
        self._on_peers.setdefault(service, []).append(run)

    def on_ask(self, what: str, run: Callable[[dict[str, Any]], Any]) -> None:
        self._on_ask[what] = run

    def on_fence_reset(self, run: Callable[[control.FenceReset, Callable[[str], None]], None]) -> None:
        """Called with what the agent has read from the store, and with what it says the outcome to, now or in
        a later turn: why it is not done, or ""."""
        self._on_fence_reset = run

    def on_lease(self, run: Callable[[pages.LeaseWord], None]) -> None:
        """Called when who is wanted to do what changed (not at renewals), and once at the start."""
        self._on_lease.append(run)

    def on_settings(self, run: Callable[[Any], None]) -> None:
        """Called between two messages with the settings that are in force from now on, complete and checked.
        It sees to every field that can change; `context.in_force.revision` is theirs already. When it raises,
        they are refused with its reason, and it is called again with those that stand: so what may fail comes
        first.
        """
        self.context.in_force.follow_all(run)

    def on_setting(self, path: str, run: Callable[[Any, Any], None]) -> None:
        """Called with the old and the new value of one setting (`max_position`, `breaker.failures`) when it
        changes. A daemon that follows some alone refuses a change of the others. Raises InvalidInput: there
        is no such setting.
        """
        self.context.in_force.follow_one(path, run)

    def on_flag(self, name: str, run: Callable[[Any, Any], None]) -> None:
        """Called with the old and the new value of one of the site's plain keys when it changes; None where
        there is none. What it is at the start: `context.flag`.
        """
        self._on_flag.setdefault(name, []).append(run)

    def on_stop(self, run: Callable[[], None]) -> None:
        self._on_stop.append(run)

    def stop(self) -> None:
        self._stopping = True

    # --- the loop -------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Until stop, SIGTERM or SIGINT; returns the exit code."""
        context = self.context
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        _settle_memory()
        context.log("started", pid=context.process.pid, daemon=context.config.daemon)
        self._hello()
        self._flush()
        lease, beat = context.lease, context.lease.beat
        try:
            while not self._stopping:
                beat()
                if lease.has_lease:
                    self._look_at_the_word()
                if not self._said_hello and context.agent.socket is not None:
                    self._hello()  # the connection was not up yet
                now_ns = self._run_timers()
                if context.changed:
                    self._report(now_ns)
                self._turn(self._poll_ms(now_ns))
        finally:
            for stop in self._on_stop:
                stop()
            self._report(time.monotonic_ns())
            context.log("stopped")
        return 0

    def _poll_ms(self, now_ns: int) -> int:
        longest_ms = WORD_POLL_MS if self.context.lease.has_lease else IDLE_POLL_MS
        due_ns = min(timer.due_ns for timer in self._timers)
        if self._wake_ns is not None:
            due_ns = min(due_ns, self._wake_ns)
            self._wake_ns = None
        # Rounded up: waking a fraction of a millisecond early would spin until the moment comes.
        return max(0, min(longest_ms, -((now_ns - due_ns) // 1_000_000)))

    def _turn(self, timeout_ms: int) -> None:
        ready: Sequence[tuple[object, int]] = self._poller.poll(timeout_ms)
        if ready:
            sockets = {socket for socket, _ in ready}
            for socket, drain in self._handlers:
                if socket in sockets and socket not in self._paused:
                    drain(socket)
            bell = self.context.lease.bell
            if bell is not None and bell.fileno() in sockets:
                bell.drain()  # the next turn begins with a look at the word
            if self.context.worker.fileno() in sockets:
                self.context.worker.drain()
        self._flush()  # at once: a tick that was batched does not wait for the heartbeat and the timers

    def _flush(self) -> None:
        for flush in self._before_wait:
            flush()

    def _run_timers(self) -> int:
        now_ns, ran = time.monotonic_ns(), False
        for timer in self._timers:
            if timer.due_ns <= now_ns:
                timer.due_ns = max(timer.due_ns + timer.every_ns, now_ns)
                timer.run(now_ns)
                ran = True
        if ran:
            self._flush()
        return now_ns

    def _look_at_the_word(self) -> None:
        lease = self.context.lease.lease()
        seen = (lease.process, lease.incarnation, lease.epoch, lease.wanted)
        if seen != self._lease_seen:
            self._lease_seen = seen
            self.context.log("lease.word", wanted=lease.wanted.name.lower(), epoch=lease.epoch)
            for run in self._on_lease:
                run(lease)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._stopping = True

    # --- the agent ------------------------------------------------------------------------------------------

    def _hello(self) -> None:
        context = self.context
        self._said_hello = context.agent.hello(context.config.daemon, VERSION_TEXT, context.endpoints)

    def _report(self, now_ns: int) -> None:
        context = self.context
        context.each_second(now_ns)
        context.changed = False
        if now_ns - self._welcomed_ns > HELLO_SILENCE_S * 1e9:
            self._hello()
        lease = context.lease
        histograms = {name: kept.counts for name, kept in context.histograms.items()}
        phase, alarms = lease.current_phase.name.lower(), context.standing_alarms()
        healthy = context.health.healthy
        ready, reason = context.ready and healthy, context.health.reason or context.reason
        context.agent.send(
            control.Status,
            ready=ready,
            reason=reason,
            phase=phase,
            epoch=lease.epoch,
            counters={name: min(count, COUNT_MAX) for name, count in context.counters.items()},
            gauges=context.gauges,
            histograms=histograms,
            alarms=alarms,
            healthy=healthy,
            breakers=context.breakers.rows(now_ns, time.time_ns()),
            config_revision=context.in_force.revision,
            config_refused=context.in_force.refused,
        )

    def _from_agent(self, frame: bytes) -> None:
        context = self.context
        message = control.decode_from_agent(frame)
        match message:
            case control.Welcome():
                self._welcomed_ns = time.monotonic_ns()
                context.agent.welcomed()
            case control.Peers():
                if message.peers:
                    context.known_peers[message.service] = message.peers
                elif context.peers(message.service):
                    # Registrations end, processes may not: what is connected stays until another is named.
                    context.count("peers_kept")
                    return
                for run in self._on_peers.get(message.service, ()):
                    run(message.peers)
            case control.Ask():
                self._answer(message)
            case control.Drain():
                pass  # no agent sends it yet
            case control.Reload():
                self._reload(message)
            case control.Flags():
                self._take_flags(message.flags)
            case control.Stop():
                self._stopping = True
            case control.Tokens():
                context.store_tokens.tell(message.tokens)
            case control.FenceReset():
                self._reset_fence(message)
            case control.Overrides():
                boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                context.breakers.override(message.overrides, time.monotonic_ns(), boot_ns)
                context.changed = True

    def _reload(self, wanted: control.Reload) -> None:
        context, in_force = self.context, self.context.in_force
        before = (in_force.revision, in_force.refused)
        changed = in_force.want(wanted.config_revision, wanted.settings)
        context.changed = True  # acknowledged at once, whatever came of it
        if in_force.refused and in_force.refused != before[1]:
            context.event("settings.refused", why=in_force.refused, in_force=in_force.revision)
        elif changed or in_force.revision != before[0]:
            context.event("settings.changed", revision=in_force.revision, fields=", ".join(changed))

    def _take_flags(self, flags: dict[str, Any]) -> None:
        """Each callback whose flag differs is called, whatever another says of its own."""
        old = self.context.flags
        self.context.take_flags(flags)
        for name, callbacks in self._on_flag.items():
            before, after = old.get(name), flags.get(name)
            if (type(before), before, name in old) == (type(after), after, name in flags):
                continue
            for run in callbacks:
                try:
                    run(before, after)
                except InvalidInput as exc:
                    self.context.undecodable(f"flag {name}: {exc}")

    def _reset_fence(self, reset: control.FenceReset) -> None:
        run, context = self._on_fence_reset, self.context

        def answer(why_not: str) -> None:
            context.agent.send(control.Answer, reset.ask, not why_not, why_not)

        if run is None:
            answer(f"{context.instance} keeps no fences")
        else:
            run(reset, answer)

    def _answer(self, ask: control.Ask) -> None:
        run = self._on_ask.get(ask.what)
        if run is None:
            known = ", ".join(sorted(self._on_ask)) or "nothing"
            self.context.agent.send(
                control.Answer,
                ask.ask,
                False,
                f"{self.context.instance} cannot be asked {ask.what!r}; it answers {known}",
            )
            return
        self.context.agent.send(control.Answer, ask.ask, True, run(ask.args))
