"""The end of a floor, in order: agents (with their instances and keepers), controller, store, hft-floord;
then sockets, pages and run folder.

Promises: after it no process, socket or shared memory of the floor is left, whether hft-floord helped or was
dead already; the data in the site folder stays; a second `down` finds nothing to do. Used by `hftctl down`,
by Ctrl-C at `hftctl up`, and by hft-floord itself on SIGTERM.
"""

from __future__ import annotations

import shutil
import signal

from controlplane.errors import HftctlError
from controlplane.floor import embedded, processes
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.floor.ownership import require_own
from controlplane.host import identity
from controlplane.http import unix
from controlplane.model import Process

SHUTDOWN_ASK_S = 5.0
"""An agent answers at once that it is shutting down; this leaves time for one that is busy."""


def take_down(folders: Folders, *, timeout_s: float) -> str:
    """End the floor and say in one line what was done.

    Raises:
        InUse: the site folder is another user's. HftctlError: something would not even die by SIGKILL; named.
    """
    require_own(folders.site_dir)
    floor = folders.running()
    alive = processes.recorded(folders)
    if floor is None and not alive and not site_folders.locked(folders.floor_lock):
        return f"no floor runs in {folders.site_dir}: nothing to do"
    floord = identity.from_plain((floor or {}).get("floord"), "floord")
    if floord and processes.send(floord, signal.SIGTERM):
        processes.wait_gone([floord], timeout_s)
    stop(folders, timeout_s=timeout_s)
    left = sweep(folders)
    if left:
        raise HftctlError(
            f"floor in {folders.site_dir}: not ended even by SIGKILL: "
            f"{', '.join(f'{k.instance} (pid {k.pid})' for k in left)}"
        )
    remove(folders)
    return f"floor {(floor or {}).get('site', '')} in {folders.site_dir} is down; its data is kept".replace(
        "  ", " "
    )


def stop(folders: Folders, *, timeout_s: float) -> None:
    """Ask, wait, then end what was recorded; agents first, so that daemons cancel and sync while the store
    still answers.

    hft-floord is left to itself: it may be the one that calls.
    """
    floor = folders.running() or {}
    run_dir = folders.run_dir()
    sockets = sorted(run_dir.glob("*.agent.sock"))
    told = unix.ask(sockets, "POST", "/v1/shutdown", timeout_s=SHUTDOWN_ASK_S)
    deaf = {
        f"agent-{socket.name.removesuffix('.agent.sock')}"
        for socket, answer in zip(sockets, told, strict=True)
        if not isinstance(answer, unix.Answer)
    }
    recorded = {
        name: identity.from_plain(record, name) for name, record in (floor.get("processes") or {}).items()
    }
    known = {name: process for name, process in recorded.items() if process is not None}
    agents = {name: process for name, process in known.items() if name.startswith("agent")}
    # One that is dead or hung is not waited for: its processes are ended by their pids.
    hung = [process for name, process in agents.items() if name in deaf]
    silent = processes.wait_gone([each for each in agents.values() if each not in hung], timeout_s)
    processes.end([*silent, *hung])
    # An agent that was dead has not stopped its keeper and shims. A shim passes SIGTERM on to its daemon.
    of_hosts = [
        k
        for k in processes.recorded(folders)
        if not k.instance.endswith(" daemon") and k.instance not in {*known, "floord"}
    ]
    processes.end(of_hosts, grace_s=6.0)
    if "controld" in known:
        processes.end([known["controld"]])
    kind = (floor.get("store") or {}).get("kind")
    if kind in known and kind in embedded.KINDS:
        processes.end([known[kind]], grace_s=embedded.named(kind).stop_grace_s)


def sweep(folders: Folders) -> list[Process]:
    """End whatever of the floor still runs; what is left cannot be ended."""
    left = {
        (known.pid, known.start_time): known
        for known in [*processes.recorded(folders), *processes.marked(folders)]
    }
    return processes.end(left.values()) if left else []


def remove(folders: Folders) -> None:
    """Sockets, pages and configs go with the run folder; floor.json last, as it says where that is."""
    run_dir = folders.run_dir()
    if run_dir.name.startswith("hft-"):
        shutil.rmtree(run_dir, ignore_errors=True)
    folders.floor_json.unlink(missing_ok=True)
