"""`hftctl up`: check everything, then start hft-floord, or change what a running floor shall be; wait until
it is healthy or say what is not.

Promises: a bad file, a missing tape, a port or site folder in use are said before anything is started (exit
2). A floor that runs and is as wanted is left alone. Nothing is ever started twice: the lock is hft-floord's.
The story goes on in floord.py.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.errors import FloorUnreachable, InUse, InvalidInput
from controlplane.floor import desired as desired_file
from controlplane.floor import etcd, processes
from controlplane.floor import folders as site_folders
from controlplane.floor.desired import Desired
from controlplane.floor.folders import Folders
from controlplane.host import identity, sched
from controlplane.http import unix
from controlplane.site import document
from controlplane.specs import diff
from controlplane.specs import read as service_specs

VENUE_DAEMON = "simd"
"""--tape, --speed and --seed are settings of the services that run it."""
POLL_S = 0.1
LOCK_WITHOUT_FLOOR_S = 5.0
"""hft-floord writes floor.json in milliseconds after it took the lock; a lock held longer without one is
somebody else's."""
LOG_LINES = 8
"""Of an instance that will not get healthy: enough for a traceback's end."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; None: not said."""

    services: Path | None = None
    tape: tuple[Path, ...] = ()
    speed: str | None = None
    seed: int | None = None
    site: str = "lab"
    http_port: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What `bring_up` did."""

    fresh: bool
    """hft-floord was started (it may have adopted what ran)."""
    changes: tuple[diff.Change, ...]
    desired: Desired
    floord: subprocess.Popen[bytes] | None = None


def bring_up(folders: Folders, options: Options, say: Callable[[str], None]) -> Started:
    """Make the floor be what is wished; returns before it is healthy.

    Raises:
        InvalidInput: the services file or an option; nothing was touched. InUse: port, site folder or run
        folder.
    """
    runs = _floord_runs(folders)
    # Its parent may have died: what it had started is this floor still, with its file and its tape.
    orphaned = not runs and bool(processes.recorded(folders) or processes.marked(folders))
    before = desired_file.read(folders) if runs or orphaned else None
    desired = _desired(folders, options, before)
    require_free_health_ports(desired, before)
    changes: tuple[diff.Change, ...] = ()
    if before is not None:
        if desired.site != before.site:
            raise InUse(
                f'site folder {folders.site_dir}: in use by the floor of site "{before.site}" (choose '
                "another with --site-dir)"
            )
        changes = tuple(diff.diff(before.specs, desired.specs))
        new_hosts = sorted(set(desired.hosts) - set(before.hosts))
        if new_hosts:
            raise InvalidInput(
                f"{desired.services_file}: host {', '.join(new_hosts)} is new; a running floor keeps its "
                "hosts (hftctl down first)"
            )
        if changes:
            say(f"{desired.services_file} has changed:")
            for change in changes:
                say(f"  {change}")
        if changes or desired != before:
            desired_file.write(folders, desired)
    if runs:
        return Started(False, changes, desired)
    choice = etcd.choose()
    # Those of an orphaned floor are its own, about to be adopted.
    for port in () if orphaned else _http_ports(desired):
        require_free_port(port, "choose another with --http-port")
    folders.create()
    run_dir = folders.create_run_dir()
    etcd.prepare(
        choice, folders.site_dir
    )  # a data folder of another version is refused here, before anything runs
    say(choice.sentence)
    if any(spec.real_time for spec in desired.specs) and not sched.may_be_real_time():
        say(
            "real-time scheduling (sched fifo) and locked memory are left out: not permitted to this user "
            "(root may, and CAP_SYS_NICE)"
        )
    if orphaned:
        say("hft-floord had died; what it had started still runs and is adopted")
    else:
        _forget_the_dead(folders, run_dir)
    desired_file.write(folders, desired)
    return Started(True, changes, desired, start_floord(folders, desired.site))


def _floord_runs(folders: Folders) -> bool:
    """True when hft-floord of this site folder runs.

    Raises:
        InUse: the lock is held, but not by an hft-floord.
    """
    deadline_mono_s = time.monotonic() + LOCK_WITHOUT_FLOOR_S
    while site_folders.locked(folders.floor_lock):
        floord = identity.from_plain((folders.running() or {}).get("floord"), "floord")
        if floord is not None and identity.runs(floord):
            return True
        if time.monotonic() > deadline_mono_s:
            holder = site_folders.lock_holder(folders.floor_lock)
            who = f"pid {holder}" if holder else "another process"
            raise InUse(
                f"site folder {folders.site_dir}: in use by {who}, which holds {folders.floor_lock.name} "
                "(choose another with --site-dir)"
            )
        time.sleep(POLL_S)
    return False


def _desired(folders: Folders, options: Options, before: Desired | None) -> Desired:
    """Read and check; a running floor keeps its file and its tape where the command line says nothing."""
    if options.services is not None:
        services = options.services.expanduser().absolute()
    elif before is not None:
        services = Path(before.services_file)
        services = services if services.exists() else folders.services
    else:
        services = default_services(options.site)
    overrides: dict[str, Any] = dict(before.overrides.get(VENUE_DAEMON, {})) if before else {}
    if options.tape:
        overrides["tape"] = [str(_tape(path)) for path in options.tape]
    if options.speed is not None:
        overrides["speed"] = options.speed
    if options.seed is not None:
        overrides["seed"] = options.seed
    by_daemon = {VENUE_DAEMON: overrides} if overrides else {}
    found = service_specs.read(services, by_daemon)
    if overrides and not any(spec.daemon == VENUE_DAEMON for spec in found):
        raise InvalidInput(
            f"{services}: --{next(iter(overrides))} is a setting of {VENUE_DAEMON}, and no service runs it"
        )
    port = options.http_port if options.http_port is not None else before.http_port if before else 0
    return Desired(options.site, str(services), by_daemon, tuple(found), port)


def _tape(path: Path) -> Path:
    """As simd will find it: what it could not begin with is refused here, before anything is started."""
    path = path.expanduser()
    if not path.exists():
        raise InvalidInput(f"--tape {path}: no such file or folder")
    if path.is_dir() and next(path.rglob("*.gz"), None) is None:
        raise InvalidInput(f"--tape {path}: no capture in this folder (*.gz wanted)")
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"--tape {path}: cannot be read (permission denied)")
    return path.resolve()


def default_services(site: str) -> Path:
    """inventory/<site>/services.yml of the folder one is in, else of the checkout that this code is from."""
    name = Path("inventory") / site / "services.yml"
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / name).is_file():
            return folder / name
    raise InvalidInput(f"{name}: not found here; name the file with --services FILE")


def _http_ports(desired: Desired) -> range:
    """Of the controller and of each host's agent; none when any free one will do."""
    return (
        range(desired.http_port, desired.http_port + 1 + len(desired.hosts))
        if desired.http_port
        else range(0)
    )


def require_free_health_ports(desired: Desired, before: Desired | None) -> None:
    """Those that the floor has not had so far.

    Raises:
        InUse: names port and instance.
    """
    had = {port for spec in (before.specs if before else ()) for _, port in spec.health_ports()}
    for spec in desired.specs:
        for slot, port in spec.health_ports():
            hint = (
                f"health_port of {slot.instance}; choose another for {spec.name} in {desired.services_file}"
            )
            if port in _http_ports(desired):
                raise InUse(f"port 127.0.0.1:{port}: asked for by --http-port and by the {hint}")
            if port not in had:
                require_free_port(port, hint)


def require_free_port(port: int, hint: str) -> None:
    """Raises InUse naming the port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as exc:
            raise InUse(f"port 127.0.0.1:{port}: {exc.strerror} ({hint})") from exc


def _forget_the_dead(folders: Folders, run_dir: Path) -> None:
    """After a power cut or kill -9 of everything: sockets and words of processes that are gone must not be
    taken for living ones.
    """
    for left in run_dir.iterdir():
        left.unlink(missing_ok=True)
    folders.floor_json.unlink(missing_ok=True)


def start_floord(folders: Folders, site: str) -> subprocess.Popen[bytes]:
    """In a session of its own: it goes on when this terminal is closed."""
    command = [
        sys.executable,
        "-m",
        "controlplane.floor.floord",
        "--site-dir",
        str(folders.site_dir),
        "--site",
        site,
    ]
    environment = {**os.environ, processes.FLOOR_MARK: str(folders.site_dir)}
    with folders.log("floord").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
            cwd="/",
        )


# --- waiting ------------------------------------------------------------------------------------------------


class Watch:
    """Looks at a floor that comes up: what it says of itself, and whether that is what was asked for."""

    def __init__(self, folders: Folders, started: Started) -> None:
        self.folders = folders
        self.desired = started.desired
        self.digest = started.desired.digest
        self._floord = started.floord
        self.began_mono_s = time.monotonic()

    def floor(self) -> dict[str, Any]:
        return self.folders.running() or {}

    def status(self) -> document.Status | None:
        floor = self.floor()
        for host in floor.get("hosts", ()):
            try:
                answer = unix.request(
                    Path(floor["run_dir"]) / f"{host}.agent.sock", "GET", "/v1/site/status", timeout_s=2
                )
            except FloorUnreachable:
                continue
            if answer.status == 200:
                return document.decode(answer.body)
        return None

    def floord_gone(self) -> bool:
        """After a moment for its start: hft-floord should run and does not."""
        if site_folders.locked(self.folders.floor_lock) or (
            self._floord is not None and self._floord.poll() is None
        ):
            return False  # on a busy machine it may take its lock late
        return time.monotonic() - self.began_mono_s > 3

    def healthy(self, status: document.Status | None) -> bool:
        """Healthy as asked for: the specs are in the store and every instance runs its newest."""
        floor = self.floor()
        floord = identity.from_plain(floor.get("floord"))
        if status is None or not status.healthy or floor.get("applied") != self.digest:
            return False
        if floord is None or not identity.runs(floord):
            return False
        if {service.name for service in status.services} != {spec.name for spec in self.desired.specs}:
            return False
        revisions = floor.get("revisions", {})
        return all(
            i.config_revision >= revisions.get(service.name, 0)
            for service in status.services
            for i in service.instances
        )

    def wait_healthy(
        self, timeout_s: float, each: Callable[[document.Status | None], None] = lambda status: None
    ) -> bool:
        """False at the timeout, or as soon as hft-floord has ended."""
        deadline_mono_s = time.monotonic() + timeout_s
        while True:
            status = self.status()
            each(status)
            if self.healthy(status):
                return True
            if time.monotonic() > deadline_mono_s or self.floord_gone():
                return False
            time.sleep(POLL_S)

    def why_not(self) -> list[str]:
        """One line for each thing that is not as it should be; under each instance the end of its log."""
        floor, status = self.floor(), self.status()
        if self.floord_gone():
            return ["hft-floord has ended:", *self.last_lines("floord")]
        lines = []
        if floor.get("applied") != self.digest:
            lines += ["the specs are not in the store yet:", *self.last_lines("floord", 3)]
        if status is None:
            lines.append("no agent answers yet:")
            for host in floor.get("hosts", ()):
                lines += self.last_lines(f"agent-{host}", 3)
            return lines
        if not status.store.healthy:
            lines += ["store: not healthy:", *self.last_lines("etcd", 3)]
        found = {i.id: i for service in status.services for i in service.instances}
        for spec in self.desired.specs:
            for slot in spec.slots():
                instance = found.get(slot.instance)
                if instance is None:
                    lines.append(f"{slot.instance}: not started by its agent")
                elif not instance.well:
                    lines.append(
                        f"{slot.instance}: {instance.state}, {instance.health}, "
                        f"{instance.restarts} restarts: {instance.reason or 'no reason given'}"
                    )
                else:
                    continue
                lines += self.last_lines(slot.instance)
            led = any(service.name == spec.name and service.leader for service in status.services)
            if spec.mode == "active_standby" and not led:
                lines.append(f"{spec.name}: no instance leads")
        return lines or ["the agents report it as not healthy; see hftctl status"]

    def last_lines(self, name: str, count: int = LOG_LINES) -> list[str]:
        try:
            with self.folders.log(name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [f"    {line}" for line in text.splitlines()[-count:]]
