"""What an observer outside says of a floor: from /proc, from the lease pages and from the venue's own files,
never from what the floor says of itself. It is held against the floor's `healthy`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.errors import FloorUnreachable
from controlplane.http import unix
from hftd.daemons.simd import journal
from hftd.shm import pages
from hftd.storage import segments
from hftd.wire import orders
from tests.support import floors

LOOK_S = 0.1
TOLD_S = 8.0
"""So long may something be wrong before `healthy` says so."""
GROUPS = ("omsd", "riskd", "execd")
PARTS = ("hft-floord", "hft-controld", "etcd")


@dataclass(frozen=True)
class Process:
    pid: int
    name: str
    """As ps shows it: an instance, `hft-agentd HOST`, `hft-keeperd HOST`, or one of PARTS."""
    stopped: bool
    parent: int = 0


def processes(site_dir: Path) -> Iterator[Process]:
    """Every living process that carries the floor's mark, and hft-floord, which gives it to the others."""
    mark = f"\0HFT_FLOOR={site_dir}\0".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = words[0].startswith("hft-floord") and str(site_dir) in " ".join(words)
            if not parent and mark not in b"\0" + (entry / "environ").read_bytes() + b"\0":
                continue
            state, parent_pid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in ("Z", "X") and (name := _name(words)):
                yield Process(int(entry.name), name, state in ("T", "t"), int(parent_pid))


def _name(words: list[str]) -> str:
    """Empty for a shim, a verb, and whatever else the floor starts for a moment."""
    title = words[0]
    if title.startswith(("hft-agentd ", "hft-keeperd ")):
        return title.partition("@")[0]
    if title.partition(" ")[0] in PARTS:
        return title.partition(" ")[0]
    if title.endswith("/etcd") and any(word.startswith("--data-dir") for word in words):
        return "etcd"  # and not one that is only asked for its version
    return title.partition("@")[0] if "@" in title and "hftd" in words[1:3] else ""


def leading(run_dir: Path, instances: list[str]) -> dict[str, list[str]]:
    """By group, whose lease page is in force now."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for instance in instances:
        group = instance.split("-")[0]
        if group not in found:
            continue
        with contextlib.suppress(Exception), pages.LeasePage(run_dir / f"{instance}.lease") as page:
            word = page.read()
            now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if word.process is not None and word.leads(word.process, now_ns):
                found[group].append(instance)
    return found


@dataclass
class Observer:
    """Looks every LOOK_S in a thread of its own, from `start` until `stop`."""

    floor: floors.Floor
    hosts: tuple[str, ...] = ("alpha", "beta")
    instances: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    healthy: int = 0
    since: dict[str, float] = field(default_factory=dict)
    """What is wrong now -> since when, in monotonic seconds."""
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self.instances = sorted(self.floor.pids())
        self._run_dir = self.floor.run_dir()
        self._thread = threading.Thread(target=self._watch, name="observer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        assert self._thread is not None and self._thread.is_alive(), "the observer itself has ended"
        self._end.set()
        self._thread.join(60)

    def _watch(self) -> None:
        while not self._end.wait(LOOK_S):
            began_s = time.monotonic()
            self._look(began_s)
            if self._says_healthy():
                self.healthy += 1
                late = [f"{what} for {began_s - at:.1f} s" for what, at in self.since.items()]
                self.violations += [
                    f"healthy, and {each}"
                    for each, at in zip(late, self.since.values(), strict=True)
                    if began_s - at > TOLD_S
                ]
            self.looks += 1

    def _look(self, now_s: float) -> None:
        found: dict[str, list[Process]] = {}
        for each in processes(self.floor.site_dir):
            found.setdefault(each.name, []).append(each)
        wanted = [*self.instances, *PARTS]
        wanted += [f"{part} {host}" for part in ("hft-agentd", "hft-keeperd") for host in self.hosts]
        wrong = set()
        for name in wanted:
            those = found.get(name, [])
            pids = {each.pid for each in those}
            # One that has forked and not executed yet looks like its parent.
            those = [each for each in those if each.parent not in pids]
            if len(those) > 1:
                self.violations.append(
                    f"{name} runs {len(those)} times: {sorted(each.pid for each in those)}"
                )
            if not those:
                wrong.add(f"{name} does not run")
            elif all(each.stopped for each in those):
                wrong.add(f"{name} is stopped")
        for group, leaders in leading(self._run_dir, self.instances).items():
            if len(leaders) > 1:
                self.violations.append(f"two lease pages of {group} are in force: {leaders}")
            if not leaders:
                wrong.add(f"{group} is not led")
        self.since = {what: self.since.get(what, now_s) for what in wrong}

    def _says_healthy(self) -> bool:
        for host in self.hosts:
            with contextlib.suppress(FloorUnreachable, ValueError):
                answer = unix.request(
                    self._run_dir / f"{host}.agent.sock", "GET", "/v1/site/status", timeout_s=1.0
                )
                return answer.status == 200 and bool(json.loads(answer.body).get("healthy"))
        return False


def placed_at_venue(site_dir: Path) -> list[orders.Place]:
    """The orders that the venue has taken, from its own journal."""
    found = []
    for path in sorted((site_dir / "simd" / "journal").glob("[0-9]*.journal")):
        content = path.read_bytes()
        for record, _ in segments.records(content, len(segments.MAGIC)):
            message = journal.decode_record(record.payload)
            if isinstance(message, orders.Place):
                found.append(message)
    return found


def seen_by_venue(site_dir: Path) -> set[str]:
    """Their order ids."""
    return {place.order_id for place in placed_at_venue(site_dir)}


def sent_twice(site_dir: Path) -> set[str]:
    """Client order ids that the venue has taken more than once: nothing may ever send an order again."""
    ids = [place.client_order_id for place in placed_at_venue(site_dir)]
    return {each for each in ids if ids.count(each) > 1} if len(set(ids)) < len(ids) else set()


def placed_in_audit(site_dir: Path) -> set[str]:
    found = set()
    for path in (site_dir / "audit").glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            if record["action"] == "ORDER_PLACED":
                found.add(record["details"]["order_id"])
    return found
