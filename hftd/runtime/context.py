"""A daemon's context: who it is, where it may write, whom it can find, and what it says of itself.

Built from the environment that the agent sets (design: the daemon contract, docs/protocol.md) or by hand
(hftd/cli/main.py). Counters, gauges, histograms and alarms are plain memory, sent once a second by the loop;
nothing here blocks.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from controlplane import clock
from controlplane.errors import InvalidInput
from controlplane.host import identity, log_line, secret
from controlplane.model import Process, bounds
from controlplane.site import histogram
from hftd.bus import socket as sockets
from hftd.runtime import agent_link, heads, leadership
from hftd.runtime.breakers import Breakers
from hftd.runtime.health import Health
from hftd.runtime.in_force import InForce, Read
from hftd.runtime.log import ERROR, INFO, LEVELS, OF_SEVERITY, WARNING, Log
from hftd.runtime.store_tokens import StoreTokens
from hftd.runtime.worker import Worker
from hftd.shm import bell
from hftd.wire import control

RUBBISH_STANDS_NS = 60_000_000_000
"""The alarm about messages that do not decode stays this long after the last one."""
REASON_MAX = 200
"""Characters of a reason that are shown: it may quote what came from outside."""


@dataclass(frozen=True, slots=True)
class Config:
    """HFT_CONFIG, rendered by the agent."""

    revision: int
    daemon: str
    run_dir: Path
    site_dir: Path
    data_dir: Path
    journal_dir: Path
    settings: Mapping[str, Any]
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Plain keys of the site with their values, as its agent knew them; null: there may be one, and its value
    is not known."""


def read_config(path: Path) -> Config:
    """Raises InvalidInput naming file and key."""
    try:
        raw = json.loads(path.read_text())
        folders = {key: Path(raw[key]) for key in ("run_dir", "site_dir", "data_dir", "journal_dir")}
        flags = raw.get("flags", {})
        if not isinstance(flags, dict):
            raise TypeError(f"flags are {type(flags).__name__}, not an object")
        return Config(raw["revision"], raw["daemon"], settings=raw["settings"], flags=flags, **folders)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise InvalidInput(f"{path}: not a rendered config ({type(exc).__name__}: {exc})") from exc


class Context:
    def __init__(
        self,
        *,
        site: str,
        host: str,
        service: str,
        process: Process,
        config: Config,
        agent_endpoint: str | None = None,
        alive: Path | None = None,
        lease_word: Path | None = None,
    ) -> None:
        self.site, self.host, self.service, self.instance, self.process = (
            site,
            host,
            service,
            process.instance,
            process,
        )
        self.config = config
        self.run_dir, self.site_dir, self.data_dir, self.journal_dir = (
            config.run_dir,
            config.site_dir,
            config.data_dir,
            config.journal_dir,
        )
        for folder in (self.run_dir, self.data_dir, self.journal_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.lease = leadership.Leadership(process, service, alive, lease_word)
        self.lines = Log(name=process.instance)
        self._log_level = self.lines.level
        """Where the settings name none."""
        self.in_force = InForce(config.revision)
        self.take_flags(config.flags)
        self.agent = agent_link.AgentLink(agent_endpoint, process)
        self.head = heads.Heads(process.instance)
        """The envelope of the next message that this process sends to its peers."""
        self.endpoints: dict[str, str] = {}
        self.counters: dict[str, int] = {}
        self.gauges: dict[str, float] = {}
        self.histograms: dict[str, histogram.Histogram] = {}
        self.breakers = Breakers(self._breaker_moved, self._breaker_alarm, self.counters, self.gauges)
        self.alarms: dict[str, control.AlarmOnWire] = {}
        self._alarms_since_ns: dict[str, int] = {}
        """CLOCK_BOOTTIME."""
        self.ready, self.reason = False, "starting"
        self.health = Health(self._health_changed)
        self.changed = False
        """Readiness, an alarm, a breaker or the settings changed: the loop sends status at once."""
        self.known_peers: dict[str, list[control.Peer]] = {}
        self._rubbish, self._rubbish_ns = 0, 0
        """Messages that did not decode since the alarm was raised, and when the last one came."""
        self.store_tokens = StoreTokens(self.lease)
        self.worker = Worker()
        """For what must not be waited for in the loop."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Raises InvalidInput naming the variable that is missing."""
        try:
            site, host, service, instance = (
                environment[key] for key in ("HFT_SITE", "HFT_HOST", "HFT_SERVICE", "HFT_INSTANCE")
            )
            config, endpoint, alive = (
                Path(environment["HFT_CONFIG"]),
                environment["HFT_AGENT"],
                Path(environment["HFT_ALIVE"]),
            )
        except KeyError as exc:
            raise InvalidInput(
                f"environment: {exc.args[0]} is not set; an agent sets it, or use --config FILE"
            ) from exc
        process = identity.identify(instance)
        assert process is not None, "a running process has an identity"
        word = Path(environment["HFT_LEASE"]) if "HFT_LEASE" in environment else None
        context = cls(
            site=site,
            host=host,
            service=service,
            process=process,
            config=read_config(config),
            agent_endpoint=endpoint,
            alive=alive,
            lease_word=word,
        )
        context.lines.never_wait()  # the pipe is this process's own
        context.lines.level = log_line.level_from_environment(environment)
        return context

    def configure(self, settings: Any, read: Read) -> None:
        """Its settings as converted, and what converts those that are wanted later (hftd/catalogue.py)."""
        self.in_force.begin(settings, read)
        self._log_level = self.lines.level
        self._set_log_level(settings)
        self.in_force.follow(lambda _, new: self._set_log_level(new))

    def _set_log_level(self, settings: Any) -> None:
        wanted = getattr(settings, "log_level", "")
        self.lines.level = LEVELS[wanted] if wanted else self._log_level

    def take_flags(self, flags: Mapping[str, Any]) -> None:
        self.flags = flags
        """Plain keys of the site with their values; replaced whole, never changed."""
        self.flag = flags.get
        """`flag(name, default)`: the value of one, where there is none the default. From memory, and without
        a frame of Python's own; read it from the context each time, as it is replaced too."""

    def __repr__(self) -> str:
        return (
            f"<Context {self.site}: {self.instance} pid {self.process.pid} "
            f"{'ready' if self.ready else self.reason}>"
        )

    # --- endpoints ------------------------------------------------------------------------------------------

    def bind(self, name: str) -> str:
        """The endpoint to bind for this socket name; said in hello, so that peers find it."""
        path = self.run_dir / f"{self.instance}.{name}"
        if len(os.fsencode(path)) > bell.PATH_BYTES_MAX:
            raise InvalidInput(
                f"socket path {path}: {len(os.fsencode(path))} bytes, at most {bell.PATH_BYTES_MAX} fit; "
                "use a shorter --run-dir"
            )
        endpoint = f"ipc://{path}"
        self.endpoints[name] = endpoint
        return endpoint

    def peers(self, service: str) -> list[control.Peer]:
        return self.known_peers.get(service, [])

    def endpoint(self, service: str, name: str) -> str | None:
        """Where that socket of the service is: of its leader if it has roles, else of its first instance."""
        peers = self.peers(service)
        for peer in sorted(peers, key=lambda peer: peer.role != "leader"):
            if name in peer.endpoints:
                return peer.endpoints[name]
        return None

    def key(self, purpose: str) -> bytes:
        """The site's key of 32 bytes for this purpose. Raises InvalidInput naming the file of its secret."""
        try:
            return secret.derived(secret.read_or_make(self.site_dir), purpose)
        except OSError as exc:
            path = self.site_dir / secret.NAME
            raise InvalidInput(f"{path}: the site's secret: {exc.strerror or exc}") from exc

    # --- what it says of itself -----------------------------------------------------------------------------

    def count(self, name: str, n: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + n

    def undecodable(self, reason: str) -> None:
        """A message that does not decode or cannot be true: nothing of it is kept, it is counted, and an
        alarm stands until none has come for RUBBISH_STANDS_NS.
        """
        self.count("undecodable")
        self._rubbish += 1
        self._rubbish_ns = time.monotonic_ns()
        text = f"messages dropped that do not decode: {self._rubbish}; the last: {reason[:REASON_MAX]}"
        self.alarm("undecodable", "warning", text)

    def each_second(self, now_ns: int) -> None:
        """Called by the loop: what the daemon looks after without being asked."""
        if self._rubbish and now_ns - self._rubbish_ns > RUBBISH_STANDS_NS:
            self._rubbish = 0
            self.clear("undecodable")
        self.breakers.each_second(now_ns)
        for path in sockets.bind_lost():
            self._log("socket.bound_again", {"path": str(path), "text": "its path had been removed"}, WARNING)

    def _breaker_moved(self, kind: str, **fields: Any) -> None:
        self.changed = True
        self.event(kind, **fields)

    def _breaker_alarm(self, id: str, text: str) -> None:
        if text:
            self.alarm(id, "warning", text)
        else:
            self.clear(id)

    def gauge(self, name: str, value: float) -> None:
        self.gauges[name] = value

    def histogram(self, name: str) -> histogram.Histogram:
        found = self.histograms.get(name)
        if found is None:
            found = self.histograms[name] = histogram.Histogram()
        return found

    def tick_passed(self, origin_ns: int) -> None:
        """An order has been sent on: how old is the tick that caused it? The difference of two daemons'
        histograms is a hop's price.
        """
        if origin_ns:
            self.histogram("tick_age").record(time.monotonic_ns() - origin_ns)

    def alarm(self, id: str, severity: str, text: str, subject: str | None = None) -> None:
        """Raise or keep an alarm; its beginning stays, its text and severity may change."""
        text, standing = bounds.cut(text), self.alarms.get(id)
        since_ns = standing.since_ns if standing else time.time_ns()
        self._alarms_since_ns.setdefault(id, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        graver = standing is None or standing.severity != severity
        if standing is None or graver or standing.text != text:
            self.changed = self.changed or graver
            self.alarms[id] = control.AlarmOnWire(id, severity, subject or self.instance, text, since_ns)
        if graver:
            self._log(
                "alarm.raised",
                {"id": id, "severity": severity, "text": text},
                OF_SEVERITY.get(severity, INFO),
            )

    def clear(self, id: str) -> None:
        self._alarms_since_ns.pop(id, None)
        if self.alarms.pop(id, None) is not None:
            self.changed = True
            self.log("alarm.cleared", id=id)

    def standing_alarms(self) -> list[control.AlarmOnWire]:
        """Each since when it stands by the wall clock as it is now: it may have been set meanwhile."""
        wall_ns, boot_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for id, alarm in self.alarms.items():
            since_ns = clock.restamped(alarm.since_ns, boot_ns - self._alarms_since_ns[id], wall_ns)
            if since_ns != alarm.since_ns:
                self.alarms[id] = msgspec.structs.replace(alarm, since_ns=since_ns)
        return list(self.alarms.values())

    def event(self, kind: str, **fields: Any) -> None:
        """Tell the agent (it keeps the site's events) and the log."""
        self.agent.event(kind, fields)
        self.log(kind, **fields)

    def set_ready(self, ready: bool, reason: str = "") -> None:
        reason = bounds.cut(reason)
        if (ready, reason) != (self.ready, self.reason):
            self.ready, self.reason, self.changed = ready, reason, True
            self.log("ready" if ready else "not_ready", reason=reason)

    def _health_changed(self) -> None:
        self.changed = True
        self._log(
            "healthy" if self.health.healthy else "unhealthy",
            {"reason": self.health.reason},
            INFO if self.health.healthy else ERROR,
        )

    def log(self, kind: str, **fields: Any) -> None:
        self._log(kind, fields)

    def _log(self, kind: str, fields: Mapping[str, Any], level: int = INFO) -> None:
        if not self.lines.line(kind, fields, level):
            self.count("log_lost")
