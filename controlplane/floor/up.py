"""`hftctl up`: check everything, start hft-floord, apply the services file, name the hosts; or change what a
running floor shall be.

Promises: a bad file, a missing tape, a port or site folder in use are said before anything is started (exit
2). A floor that runs as asked is left alone. Nothing is ever started twice: the lock is hft-floord's.
No agent is started before the services are applied, so none begins with what an earlier floor had left. The
specs are written by specs/apply.py; the story goes on in floord.py and, until all is healthy, in wait.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import getpass
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane import store
from controlplane.errors import InUse, InvalidInput, Refused, Unavailable
from controlplane.floor import (
    claim,
    cluster,
    consul_doors,
    embedded,
    ports,
    processes,
    run_file,
    tape,
    wait,
)
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.floor.ownership import make_own
from controlplane.floor.run_file import RunFile
from controlplane.host import cpu, identity, run_folder, sched
from controlplane.model import ServiceSpec
from controlplane.specs import apply as specs_apply
from controlplane.specs import read as service_specs
from controlplane.store import existing as existing_stores
from controlplane.store.existing import Existing

VENUE_DAEMON = "simd"
"""--tape, --speed and --seed are settings of the services that run it."""
JOURNAL_DIR = "HFT_JOURNAL_DIR"
POLL_S = 0.1
LOCK_WITHOUT_FLOOR_S = 5.0
"""hft-floord writes floor.json milliseconds after it took the lock; a lock held longer without one is
another program's."""
REASON = "hftctl up"
"""Of the operation in which the services file is applied."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; None: not said."""

    services: Path | None = None
    tape: tuple[Path, ...] = ()
    speed: str | None = None
    seed: int | None = None
    site: str = "lab"
    http_port: int | None = None
    store: str | None = None
    existing: Existing | None = None
    """A store to use instead of one of its own."""
    join: bool = False
    doors: consul_doors.Doors = consul_doors.CLOSED
    """What an embedded Consul opens on loopback."""
    settings: str = ""
    """Whose value a setting has that was changed in the file and in the store: file, store; empty: it is a
    conflict."""


@dataclass(frozen=True, slots=True)
class WantedFloor:
    """The services file as read and checked, and the processes that it takes."""

    run: RunFile
    specs: tuple[ServiceSpec, ...]

    @property
    def file(self) -> str:
        return self.run.services_file


@dataclass(frozen=True, slots=True)
class Started:
    """What `bring_up` did."""

    fresh: bool
    """hft-floord was started (it may have adopted what ran)."""
    site: str
    changes: int
    """To the services that the floor had."""
    specs: tuple[ServiceSpec, ...]
    revisions: dict[str, int]
    """Of each service's spec in the store."""
    floord: subprocess.Popen[bytes] | None = None


def bring_up(
    folders: Folders,
    options: Options,
    say: Callable[[str], None],
    launches: Callable[[], None] = lambda: None,
) -> Started:
    """Make the floor be what is asked for; returns before it is healthy. `launches` is called just before a
    floor is started of which nothing ran.

    Raises:
        InvalidInput: the services file or an option; nothing was touched. InUse: port, site folder (whose it
        is, too) or run folder. Unavailable: the store does not come up. HftctlError: hft-floord has ended.
        InvalidSettings: not on this machine.
    """
    cpu.require_ordered_stores()
    make_own(folders.site_dir)
    runs = _floord_runs(folders)
    # Its parent may have died: what it had started is this floor still, with its file and its tape.
    orphaned = not runs and bool(processes.recorded(folders) or processes.marked(folders))
    before = run_file.read(folders) if runs or orphaned else None
    if runs and not folders.run_json.exists() and folders.desired_json.exists():
        raise Refused(
            f"the floor in {folders.site_dir} was started by an earlier hftctl: hftctl down ends it (its "
            "data stays), hftctl up starts it again"
        )
    wanted = _wanted(folders, options, before)
    _require_doors(folders, options, wanted, before)
    if before is not None:
        _require_same_floor(folders, wanted, before)
    floord = None
    if not runs:
        if before is None:
            ports.require_free_health_ports(wanted.file, wanted.specs, wanted.run)
        if wanted.run.store_url:
            hosts = wanted.run.hosts if before is None else ()
            cluster.require(wanted.run.store_url, wanted.run.site, folders, hosts, join=options.join)
        if before is None:
            launches()
        floord = _start(folders, wanted, before, say, options.doors)
    url = wait.store_url(folders, floord)
    changes, applied = asyncio.run(_apply(url, folders, wanted, options, say, ask_ports=before is not None))
    if applied.outcome == "unknown":
        raise Unavailable(
            f"the services may or may not be applied: {applied.reason} (operation {applied.operation}; "
            "hftctl up again settles it)"
        )
    if applied.outcome == "refused" and applied.operation is None:
        raise Refused(f"the services were not applied, and nothing was changed: {applied.reason}")
    if applied.outcome != "succeeded":
        raise Refused(
            f"the services were not applied: {applied.reason} (applied: "
            f"{', '.join(applied.applied) or 'none'}; hftctl up again shows what is different now)"
        )
    _remember(folders, wanted)
    return Started(not runs, wanted.run.site, changes, wanted.specs, dict(applied.revisions), floord)


def _require_doors(folders: Folders, options: Options, wanted: WantedFloor, before: RunFile | None) -> None:
    """Raises InvalidInput, or InUse: a port, or a floor that runs."""
    asked = options.doors.ports()
    for option, port in asked.items():
        if wanted.run.store_url:
            raise InvalidInput(f"{option}: the store is not this floor's own (--store-endpoints)")
        if wanted.run.store != "consul":
            raise InvalidInput(
                f"{option}: only with --store consul; this floor's store is {wanted.run.store}"
            )
        if before is not None:
            raise InUse(f"{option}: the floor in {folders.site_dir} runs already (hftctl down first)")
        ports.require_free(port, f"choose another with {option}")
    if len(set(asked.values())) < len(asked):
        raise InvalidInput("--consul-dns and --consul-ui: wanted two ports")


def _require_same_floor(folders: Folders, wanted: WantedFloor, before: RunFile) -> None:
    if wanted.run.site != before.site:
        raise InUse(
            f'site folder {folders.site_dir}: in use by the floor of site "{before.site}" (choose '
            "another with --site-dir)"
        )
    if wanted.run.store != before.store:
        raise InUse(
            f"site folder {folders.site_dir}: its floor runs with {before.store}, not {wanted.run.store} "
            "(hftctl down first)"
        )
    if wanted.run.store_url != before.store_url:
        own = f"a {before.store} of its own"
        raise InUse(
            f"site folder {folders.site_dir}: its floor runs with {before.store_url or own}, not "
            f"{wanted.run.store_url or own} (hftctl down first)"
        )
    new_hosts = sorted(set(wanted.run.hosts) - set(before.hosts))
    if new_hosts and before.hosts:
        raise InvalidInput(
            f"{wanted.file}: host {', '.join(new_hosts)} is new; a running floor keeps its hosts (hftctl "
            "down first)"
        )


def _start(
    folders: Folders,
    wanted: WantedFloor,
    before: RunFile | None,
    say: Callable[[str], None],
    doors: consul_doors.Doors,
) -> subprocess.Popen[bytes]:
    """Start hft-floord. `before`: of an orphaned floor, whose processes it adopts."""
    own = None if wanted.run.store_url else embedded.named(wanted.run.store)
    choice = own.choose() if own is not None else None
    # Those of an orphaned floor are its own, about to be adopted.
    for port in () if before is not None else ports.of_http(wanted.run):
        ports.require_free(port, "choose another with --http-port")
    folders.create()
    if own is not None and choice is not None:
        own.prepare(choice, folders.site_dir)  # data of another version is refused before anything runs
        if own.kind == "consul" and before is None:
            consul_doors.write(folders.site_dir / own.kind, doors)
            for option, port in doors.ports().items():
                say(f"{option}: 127.0.0.1:{port}, for every user of this machine")
        say(choice.sentence)
    else:
        say(f"store: {wanted.run.store_url.partition('?')[0]}, which is not this floor's own")
    if any(spec.real_time for spec in wanted.specs) and not sched.may_be_real_time():
        say(
            "real-time scheduling (sched fifo) and locked memory are left out: not permitted to this user "
            "(root may, and CAP_SYS_NICE)"
        )
    if before is not None:
        say("hft-floord had died; what it had started still runs and is adopted")
    else:
        _forget_the_dead(folders, run_folder.make(folders.run_dir_wanted()))
        if lost := run_folder.ends_at_logout():
            say(lost)
    run_file.write(folders, dataclasses.replace(wanted.run, hosts=before.hosts if before is not None else ()))
    return start_floord(folders, wanted.run.site)


async def _apply(
    url: str,
    folders: Folders,
    wanted: WantedFloor,
    options: Options,
    say: Callable[[str], None],
    *,
    ask_ports: bool,
) -> tuple[int, specs_apply.Applied]:
    """The number of changes to what the store had, and how applying them ended.

    Raises:
        InUse: a health port that the floor has not had so far. Unavailable.
    """
    client = store.connect(url)
    try:
        keys = store.Keys(wanted.run.site)
        await claim.claim(client, keys, folders, join=options.join, own_store=not wanted.run.store_url)
        plan = await specs_apply.plan(client, keys, wanted.specs, options.settings)
        if ask_ports:
            ports.require_free_health_ports(wanted.file, wanted.specs, wanted.run, plan.before)
        changes = len(plan.changes) if plan.before else 0
        if changes:
            say(f"{wanted.file} differs from what is applied:")
            for change in plan.changes:
                say(f"  {change}")
        for line in plan.notes:
            say(line)
        applied = await specs_apply.apply(
            client,
            keys,
            plan,
            operation=specs_apply.new_operation(),
            actor=getpass.getuser(),
            reason=REASON,
            now_ns=time.time_ns(),
        )
        return changes, applied
    finally:
        await client.close()


def _remember(folders: Folders, wanted: WantedFloor) -> None:
    """The services are applied: the agents may come, and a bare `up` reads this file again."""
    source = Path(wanted.file)
    if source.resolve() != folders.services.resolve():
        site_folders.write_atomically(folders.services, source.read_bytes())
    if run_file.read(folders) != wanted.run:
        run_file.write(folders, wanted.run)


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


def _wanted(folders: Folders, options: Options, before: RunFile | None) -> WantedFloor:
    """Read and check; a running floor keeps its file and its tape where the command line says nothing."""
    if options.services is not None:
        services = options.services.expanduser().absolute()
    elif before is not None and before.services_file:
        services = Path(before.services_file)
        services = services if services.exists() else folders.services
    else:
        services = default_services(options.site)
    overrides: dict[str, Any] = dict(before.overrides.get(VENUE_DAEMON, {})) if before else {}
    if options.tape:
        overrides["tape"] = [str(tape.require(path, f"--tape {path}")) for path in options.tape]
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
    if before is None and not options.tape:
        for spec in found:
            of_file = spec.settings.get("tape") if spec.daemon == VENUE_DAEMON else None
            for path in of_file if isinstance(of_file, list | tuple) else ():
                tape.require(Path(str(path)), f"{services}: {spec.name}.settings.tape: {path}")
    port = options.http_port if options.http_port is not None else before.http_port if before else 0
    hosts = {host for spec in found for host in spec.hosts} | set(before.hosts if before else ())
    known = before if before is not None else _last(folders)
    kind, url = _store(options, known)
    journals = _journal_dir(folders, before, known)
    run = RunFile(
        options.site, tuple(sorted(hosts)), port, kind, str(services), by_daemon, journals, store_url=url
    )
    return WantedFloor(run, tuple(found))


def _last(folders: Folders) -> RunFile | None:
    """Of the floor that ran here last; a damaged one is written anew."""
    with contextlib.suppress(InvalidInput):
        return run_file.read(folders)
    return None


def _store(options: Options, known: RunFile | None) -> tuple[str, str]:
    """Kind and address (empty: embedded) of the store: as is said, else where this site folder's truth has
    been: in another store are other services and other epochs.

    Raises:
        InvalidInput: what is said does not fit together.
    """
    if options.existing is not None:
        url = existing_stores.url(options.existing, options.store)
        return store.endpoint.split(url)[0], url
    if options.store is not None:
        return options.store, known.store_url if known and known.store == options.store else ""
    return (known.store, known.store_url) if known else (embedded.DEFAULT, "")


def _journal_dir(folders: Folders, before: RunFile | None, known: RunFile | None) -> str:
    """HFT_JOURNAL_DIR where it is set; else where the journals have been: another place is another journal,
    and the orders in the old one would be forgotten.

    Raises:
        InUse: the floor runs, and has its journals elsewhere.
    """
    said = os.environ.get(JOURNAL_DIR)
    said = said and str(Path(said).expanduser().absolute())
    kept = known.journal_dir if known else None
    if before is not None and said is not None and kept is not None and said != kept:
        raise InUse(
            f"site folder {folders.site_dir}: its floor has its journals in {kept or 'it'}, not in "
            f"{said or 'it'} ({JOURNAL_DIR}; hftctl down first)"
        )
    return said if said is not None else kept or ""


def default_services(site: str) -> Path:
    """inventory/<site>/services.yml of the checkout that this code is from. One of the current folder, which
    anybody may have put there, says what runs as this user only when it is named.
    """
    name = Path("inventory") / site / "services.yml"
    own = Path(__file__).resolve().parents[2] / name
    if own.is_file():
        return own
    here = f"--services {name}" if name.is_file() else "--services FILE"
    raise InvalidInput(f"{own}: no such file; name the services file with {here}")


def _forget_the_dead(folders: Folders, run_dir: Path) -> None:
    """After a power cut or kill -9 of everything: sockets and pages of processes that are gone must not be
    taken for those of living ones.
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
