"""Processes of a floor: known for certain by boot id, pid and start time, watched and ended by pidfd, never
by name.

Two ways to find them: what floor.json and the shims' state files recorded, and the mark that every process of
a floor carries in its environment (for one that was started in the instant before its parent died). Light on
purpose: `hftctl down` is all that needs it beside hft-floord.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from controlplane.floor.folders import Folders, read_json
from controlplane.host import identity
from controlplane.model import Process

FLOOR_MARK = "HFT_FLOOR"
"""Environment variable of every process under hft-floord: the site folder."""
KILL_AFTER_S = 5.0


def recorded(folders: Folders) -> list[Process]:
    """What floor.json, the locks and the shims' state files name, still runs, and is this floor's: a file may
    name any process of the machine, but only ours carry our mark. One whose environment is hidden (a program
    with capabilities of its own) is believed by its start time and boot.
    """
    floor = folders.running() or {}
    found = [identity.from_plain(floor.get("floord"), "floord")]
    children = floor.get("processes")
    if isinstance(children, dict):
        found += [identity.from_plain(record, name) for name, record in children.items()]
    for path in folders.hosts.glob("*/*.lock"):
        found.append(identity.from_plain(read_json(path), f"{path.stem}-{path.parent.name}"))
    for path in folders.run_dir().glob("*.shim.json"):
        state = read_json(path) or {}
        for part in ("shim", "daemon"):
            found.append(
                identity.from_plain(
                    {**(state.get(part) or {}), "boot_id": state.get("boot_id")},
                    f"{state.get('instance')} {part}",
                )
            )
    alive = {
        (known.pid, known.start_time): known for known in found if known is not None and identity.runs(known)
    }
    return [
        known
        for known in alive.values()
        if known.pid != os.getpid() and _is_ours(known, folders) is not False
    ]


def _is_ours(known: Process, folders: Folders) -> bool | None:
    """Whether the process carries the floor's mark; None: its environment cannot be read."""
    try:
        environment = Path(f"/proc/{known.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    mark = f"{FLOOR_MARK}=".encode()
    sites = [os.fsdecode(each.removeprefix(mark)) for each in environment if each.startswith(mark)]
    return any(Path(site).resolve() == folders.site_dir.resolve() for site in sites)


def marked(folders: Folders) -> list[Process]:
    """Every process of this user that carries the floor's mark, or a config of its run folder, in its
    environment.
    """
    marks = (f"{FLOOR_MARK}={folders.site_dir}\0".encode(), f"HFT_CONFIG={folders.run_dir()}/".encode())
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = b"\0" + (entry / "environ").read_bytes() + b"\0"
            if any(b"\0" + mark in environment for mark in marks):
                name = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                )
                if known := identity.identify(name, int(entry.name)):
                    found.append(known)
    return found


def run_dir_of(living: Iterable[Process]) -> Path | None:
    """Where a daemon among them has its config: the run folder of a floor whose floor.json is lost."""
    for known in living:
        with suppress(OSError):
            environment = Path(f"/proc/{known.pid}/environ").read_bytes().split(b"\0")
            for each in environment:
                if each.startswith(b"HFT_CONFIG="):
                    return Path(os.fsdecode(each.removeprefix(b"HFT_CONFIG="))).parent
    return None


def send(known: Process, number: signal.Signals) -> bool:
    """Signal exactly this process; False when it is gone. The pidfd keeps the pid from being another's
    between look and kill.
    """
    try:
        fd = os.pidfd_open(known.pid)
    except OSError:
        return False
    try:
        if not identity.runs(known):
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def wait_gone(all_known: Iterable[Process], timeout_s: float) -> list[Process]:
    """Wait until they have ended; those that have not are returned. Sleeps in poll, wakes at each death."""
    deadline_mono_s = time.monotonic() + timeout_s
    left = [known for known in all_known if identity.runs(known)]
    while left:
        remaining_s = deadline_mono_s - time.monotonic()
        if remaining_s <= 0:
            return left
        poll = select.poll()
        fds = []
        for known in left:
            with suppress(OSError):
                fd = os.pidfd_open(known.pid)
                fds.append(fd)
                poll.register(fd, select.POLLIN)
        try:
            poll.poll(
                min(remaining_s, 0.5) * 1000
            )  # also looks again by itself: a zombie whose parent is slow counts as gone
        finally:
            for fd in fds:
                os.close(fd)
        left = [known for known in left if identity.runs(known)]
    return []


def end(all_known: Iterable[Process], grace_s: float = KILL_AFTER_S) -> list[Process]:
    """SIGTERM, then SIGKILL for what does not go; what even that does not end (never, short of a hung kernel)
    is returned. What is stopped (SIGSTOP) goes on, to end in order.
    """
    wanted = [known for known in all_known if send(known, signal.SIGTERM)]
    for known in wanted:
        send(known, signal.SIGCONT)
    stubborn = wait_gone(wanted, grace_s)
    for known in stubborn:
        send(known, signal.SIGKILL)
    return wait_gone(stubborn, KILL_AFTER_S)
