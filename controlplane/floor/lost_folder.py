"""A run folder that is lost while its floor runs: a user's logout, `rm`, a cleaner of /tmp.

Who had a connection before goes on; nobody new finds anybody. So hft-floord makes the folder again and starts
its children again, each once, when their sockets are gone: the store first, on its data, then agents and
controller. The daemons run through it; each agent restarts its own one by one (agents/supervisor), and a
keeper makes its socket again itself.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from controlplane.errors import InUse
from controlplane.floor import embedded, processes
from controlplane.floor.child import Child
from controlplane.floor.folders import Folders
from controlplane.host import identity, run_folder
from controlplane.model import Process

END_S = 8.0
"""For a store to sync and go; then SIGKILL."""
BOUND_S = 15.0
"""For one that was started again to have its socket: the others come to it there."""
LOOK_S = 0.05
CONTROLLER_SOCKET = "controld.sock"


def taken(folders: Folders, before: Mapping[str, object]) -> Path:
    """The run folder of the floor that `before` (its floor.json) is about, made again where it is gone.

    Raises:
        InUse: it cannot be made, as where an earlier release had it and its user has logged out.
    """
    said = before.get("run_dir")
    run_dir = Path(said) if isinstance(said, str) else processes.run_dir_of(processes.marked(folders))
    try:
        return run_folder.make(run_dir or folders.run_dir_wanted())
    except InUse as exc:
        if run_dir is None:
            raise
        raise InUse(
            f"{exc}; what runs has its sockets there: `hftctl down` ends it, `hftctl up` starts it anew"
        ) from exc


def living(folders: Folders) -> dict[str, Process]:
    """The floor's own processes, by the mark that they carry and what they call themselves: what floor.json
    would name, for an hft-floord that finds none.
    """
    found = {}
    for process in processes.marked(folders):
        title, _, rest = process.instance.partition(" ")
        if title == "hft-agentd":
            name = f"agent-{rest.partition('@')[0]}"
        elif title == "hft-controld":
            name = "controld"
        elif Path(title).name in embedded.KINDS and str(folders.site_dir) in rest:
            name = Path(title).name
        else:
            continue
        found[name] = Process(name, process.boot_id, process.pid, process.start_time)
    return found


def socket_of(name: str, run_dir: Path, endpoints: Sequence[str]) -> Path | None:
    """Where a child of that name is reached, in the run folder; `endpoints` are the store's."""
    if name in embedded.KINDS:
        paths = [each.removeprefix("unix:") for each in endpoints if each.startswith("unix:")]
        return Path(paths[0]) if paths else None
    if name == "controld":
        return run_dir / CONTROLLER_SOCKET
    return run_dir / f"{name.removeprefix('agent-')}.agent.sock"


async def end(child: Child) -> None:
    """End it for certain, by its pidfd; whoever supervises it starts it again."""
    process = child.process
    if process is None:
        return
    processes.send(process, signal.SIGTERM)
    if await _until(lambda: not identity.runs(process), END_S):
        return
    processes.send(process, signal.SIGKILL)
    await _until(lambda: not identity.runs(process), END_S)


async def start_again(children: Sequence[Child]) -> None:
    """Those among them that nobody reaches any more, the store first."""
    for child in sorted(children, key=lambda child: child.name not in embedded.KINDS):
        if child.cut_off:
            await end(child)
            if child.name in embedded.KINDS and child.socket is not None:
                await _until(child.socket.exists, BOUND_S)


async def _until(true: Callable[[], bool], within_s: float) -> bool:
    end_mono_s = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end_mono_s:
            return False
        await asyncio.sleep(LOOK_S)
    return True
