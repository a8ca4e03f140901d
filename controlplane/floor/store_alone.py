"""The floor's own store, of either kind, started for a while with nothing else of the floor: for a backup or
a restore while the floor is down.

Promises: nobody brings the floor up meanwhile (floor.lock); the store ends with the block, in order, and also
when this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator

from controlplane.errors import InUse, Unavailable
from controlplane.floor import down, embedded, processes
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.floor.ownership import make_own
from controlplane.host import locks, run_folder

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def running(folders: Folders, kind: str, verb: str, say: Callable[[str], None]) -> Iterator[str]:
    """The address of the store, for `store.connect`. `verb`: whose lock it is meanwhile.

    Raises:
        InUse: the floor runs, or its store's data is served already. InvalidSettings, Refused: no binary, or
        another version's data. Unavailable: it does not come up; its log says why.
    """
    own = embedded.named(kind)
    choice = own.choose()
    make_own(folders.site_dir)
    folders.create()
    with locks.take(folders.floor_lock, verb, "this site folder is in use"):
        if left := processes.recorded(folders):
            names = ", ".join(f"{each.instance} (pid {each.pid})" for each in left[:4])
            raise InUse(f"floor in {folders.site_dir}: {names} still run; hftctl down ends them")
        own.prepare(choice, folders.site_dir)
        if holder := own.holder(choice.version, folders.site_dir):
            raise InUse(f"store data in {folders.site_dir}: {holder} serves it; hftctl down ends it")
        down.remove(folders)  # sockets of the dead
        launch = own.launch(choice, folders.site_dir, run_folder.make(folders.run_dir_wanted()))
        say(f"{choice.sentence}, started for this alone")
        said: dict[str, object] = {"kind": kind, "endpoints": launch.endpoints}
        url = site_folders.url_of(said | ({"token_file": launch.token_file} if launch.token_file else {}))
        process = _start(folders, kind, launch)
        try:
            asyncio.run(_ready(url, process, folders, kind))
            yield url
        finally:
            _end(process, own.stop_grace_s)
            down.remove(folders)


def _start(folders: Folders, kind: str, launch: embedded.Launch) -> subprocess.Popen[bytes]:
    with folders.log(kind).open("ab") as log:
        return subprocess.Popen(
            launch.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us; the store then ends in order
            env={**os.environ, processes.FLOOR_MARK: str(folders.site_dir)},
            cwd=launch.folder,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


async def _ready(url: str, process: subprocess.Popen[bytes], folders: Folders, kind: str) -> None:
    try:
        await embedded.wait_ready(url, lambda: process.poll() is not None)
    except Unavailable as exc:
        raise Unavailable(f"{exc} ({folders.log(kind)})") from exc


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    process.terminate()
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
