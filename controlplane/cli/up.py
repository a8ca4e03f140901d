"""`hftctl up`: bring the floor up and stay in front of it, or with --detach return when it is healthy."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Optional

from controlplane.cli import render, stderr
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import (
    SettingsOption,
    SiteDirOption,
    SiteOption,
    StoreCaOption,
    StoreCertOption,
    StoreEndpointsOption,
    StoreKeyOption,
    StorePasswordOption,
    StoreTokenOption,
    StoreUserOption,
    require_side,
)
from controlplane.errors import InvalidInput
from controlplane.floor import folders
from controlplane.floor.embedded import KINDS as STORES

if TYPE_CHECKING:
    from controlplane.floor import up as floor_up
    from controlplane.floor import wait as floor_wait
    from controlplane.store.existing import Existing

DOWN_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.5
TAKES_DOWN = "Ctrl-C takes the floor down."
LOOKS_ON = "The floor ran before this command: Ctrl-C ends the looking on, not the floor."


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM: go, with 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def up(
    services: Annotated[
        Optional[Path],
        Option(
            "--services",
            help="The services file; hftctl's own inventory/SITE/services.yml if left out.",
        ),
    ] = None,
    tape: Annotated[
        Optional[list[Path]],
        Option(
            "--tape",
            help="Recorded files or folders for simd to replay; may be given several times. A seeded market "
            "when left out.",
        ),
    ] = None,
    more_tape: Annotated[
        Optional[list[Path]], Argument(help="More files or folders after --tape.", metavar="[FILES...]")
    ] = None,
    speed: Annotated[
        Optional[str],
        Option("--speed", help="How fast simd replays: a number (1 is as recorded), or max."),
    ] = None,
    seed: Annotated[Optional[int], Option("--seed", help="Seed of the synthetic market.")] = None,
    detach: Annotated[bool, Option("--detach", "-d", help="Return when all is healthy.")] = False,
    timeout: Annotated[
        float, Option("--timeout", min=1, help="Seconds until all has to be healthy (with --detach).")
    ] = 60.0,
    http_port: Annotated[
        Optional[int],
        Option(
            "--http-port",
            min=0,
            max=65000,
            help="TCP port of the controller, the agents on the next ones; 0: any free.",
        ),
    ] = None,
    store: Annotated[
        Optional[str],
        Option("--store", help=f"The store that a new floor brings along: {' or '.join(STORES)}."),
    ] = None,
    store_endpoints: StoreEndpointsOption = None,
    store_token: StoreTokenOption = None,
    store_ca: StoreCaOption = None,
    store_cert: StoreCertOption = None,
    store_key: StoreKeyOption = None,
    store_user: StoreUserOption = None,
    store_password: StorePasswordOption = None,
    join: Annotated[
        bool,
        Option("--join", help="Be the floor that the site in the store is of, whose folder this one is not."),
    ] = False,
    consul_dns: Annotated[
        Optional[int],
        Option(
            "--consul-dns",
            min=0,
            max=65535,
            help="With --store consul: answer DNS at this port of loopback; 0: 8600.",
        ),
    ] = None,
    consul_ui: Annotated[
        Optional[int],
        Option(
            "--consul-ui",
            min=0,
            max=65535,
            help="With --store consul: its UI and HTTP at this port of loopback; 0: 8500.",
        ),
    ] = None,
    settings: SettingsOption = "",
    site_dir: SiteDirOption = None,
    site: SiteOption = "lab",
) -> int:
    """Start the floor, or change what a running one shall be."""
    from controlplane.floor import consul_doors, embedded
    from controlplane.floor import up as floor_up  # 100 ms: not for `up --help` or a completion

    if more_tape and not tape:
        raise InvalidInput(f"{more_tape[0]}: unexpected; tape files are named after --tape")
    require_side(settings)
    os.umask(0o077)  # what goes into the site folder is this user's alone, as with host/run.py
    floor = folders.Folders(site_dir or folders.default_site_dir())
    tapes = (*(tape or ()), *(more_tape or ()))
    if store is not None:
        embedded.named(store)
    files = {
        "token_file": store_token,
        "ca_file": store_ca,
        "cert_file": store_cert,
        "key_file": store_key,
        "password_file": store_password,
    }
    at = existing_store(store_endpoints, files, store_user)
    doors = consul_doors.Doors(consul_dns, consul_ui)
    options = floor_up.Options(
        services, tapes, speed, seed, site, http_port, store, at, join, doors, settings
    )
    if detach:
        started = floor_up.bring_up(floor, options, render.say)
        return wait(watch_of(floor, started), started, timeout)
    return in_front(floor, options)


def existing_store(
    endpoints: str | None, files: Mapping[str, Path | None], user: str | None
) -> Existing | None:
    """Raises InvalidInput: what a client shows was given, and not to whom."""
    from controlplane.store.existing import Existing

    given = {name: path for name, path in files.items() if path is not None}
    if endpoints:
        return Existing(endpoints, given, user or "")
    if given or user:
        what = next(iter(given), "user").removesuffix("_file")
        raise InvalidInput(
            f"--store-{what}: found no --store-endpoints beside it, wanted where that store is"
        )
    return None


def watch_of(floor: folders.Folders, started: floor_up.Started) -> floor_wait.ComingUp:
    from controlplane.floor import wait as floor_wait

    return floor_wait.ComingUp(floor, started.specs, started.revisions, started.floord)


def wait(watch: floor_wait.ComingUp, started: floor_up.Started, timeout_s: float) -> int:
    if watch.wait_healthy(timeout_s):
        for note in watch.floor().get("notes", ()) if started.fresh else ():
            render.say(note)
        render.say(done(watch, started))
        return 0
    print(f"hftctl: not healthy after {time.monotonic() - watch.began_mono_s:.0f} s:", file=sys.stderr)
    for line in watch.why_not():
        stderr.say(line)
    print("hftctl: the floor stays up (look: hftctl status; end it: hftctl down)", file=sys.stderr)
    return 1


def done(watch: floor_wait.ComingUp, started: floor_up.Started) -> str:
    took_s = time.monotonic() - watch.began_mono_s
    if started.fresh:
        return (
            f"up and healthy in {took_s:.1f} s: site {started.site} in {watch.folders.site_dir} "
            "(hftctl status shows it, hftctl down ends it)"
        )
    if started.changes:
        return f"{started.changes} changes applied, healthy after {took_s:.1f} s"
    return f"already up, nothing changed: site {started.site} in {watch.folders.site_dir}"


def in_front(floor: folders.Folders, options: floor_up.Options) -> int:
    """Until somebody takes the floor down, or Ctrl-C or SIGTERM: these take down a floor that was started
    here. One that ran before, of which this only looks on, goes on without it.
    """
    from controlplane.floor import down as floor_down
    from controlplane.floor import up as floor_up

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # once is enough: going down is bounded
        raise Interrupted(number)

    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever shell it comes from: Ctrl-C is heard
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    ours: list[bool] = []
    try:
        started = floor_up.bring_up(floor, options, render.say, lambda: ours.append(True))
        watch = watch_of(floor, started)
        if not ours:
            render.say(f"{LOOKS_ON} (without staying: hftctl up --detach)")
        return screen(watch, TAKES_DOWN if ours else LOOKS_ON) if sys.stdout.isatty() else lines(watch)
    except Interrupted as exc:
        if ours:
            print("\ntaking the floor down", flush=True)
            render.say(floor_down.take_down(floor, timeout_s=DOWN_TIMEOUT_S))
        elif floor.running() is not None:
            print(f"\nthe floor in {floor.site_dir} goes on (hftctl down ends it)", flush=True)
        return 128 + exc.number


def screen(watch: floor_wait.ComingUp, ctrl_c: str) -> int:
    from rich.live import Live

    from controlplane.floor import watch_screen

    hint = f"{ctrl_c}   logs: {watch.folders.logs}"
    with Live(watch_screen.draw(None, hint), screen=True, refresh_per_second=4) as live:
        while not watch.floord_gone():
            live.update(watch_screen.draw(watch.status(), hint))
            time.sleep(LOOK_EVERY_S)
    return gone(watch)


def lines(watch: floor_wait.ComingUp) -> int:
    """Without a terminal: a line a change."""
    before: dict[str, str] = {}
    while not watch.floord_gone():
        now = told(watch)
        for subject, what in now.items():
            if before.get(subject) != what:
                render.say(f"{time.strftime('%H:%M:%S')} {subject}: {what}")
        for subject in before.keys() - now.keys():
            render.say(f"{time.strftime('%H:%M:%S')} {subject}: gone")
        before = now
        time.sleep(LOOK_EVERY_S)
    return gone(watch)


def told(watch: floor_wait.ComingUp) -> dict[str, str]:
    """What a line is worth, by subject; pids, counters and times are not."""
    status = watch.status()
    if status is None:
        return {"floor": "no agent answers yet"}
    said = {"floor": "healthy" if watch.healthy(status) else "not healthy yet"}
    for service in status.services:
        if service.epoch:
            said[service.name] = f"led by {service.leader or 'no instance'}, epoch {service.epoch}"
        for i in service.instances:
            reason = f" ({i.reason})" if i.reason and i.health != "passing" else ""
            said[i.id] = f"{i.state}, {i.role or 'serving'}, {i.health}{reason}, {i.restarts} restarts"
    return said | {f"alarm {a.id}": f"{a.severity}: {a.subject}: {a.text}" for a in status.alarms}


def gone(watch: floor_wait.ComingUp) -> int:
    if watch.folders.running() is None:
        print("the floor was taken down")
        return 0
    for line in watch.why_not():
        stderr.say(line)
    print("hftctl: what it had started goes on; hftctl up adopts it, hftctl down ends it", file=sys.stderr)
    return 1
