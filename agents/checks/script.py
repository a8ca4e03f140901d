"""A check by a program of the host: its exit status is the result, the beginning of its output the words.

Which programs there are is the host's word, not the store's: a spec names a file in the folder of check
scripts, and that folder and the file must be writable by nobody but root and the floor's own user. A run has
a session of its own, closed input, no descriptor of the agent's and little environment; sh sets its limits
and becomes the program, and looks at no argument. At the time limit its whole process group is killed. No
thread waits for it: its end is a pidfd that turns readable. What outlives the agent: leftovers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pwd
import secrets
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.checks import leftovers
from agents.checks.blocking import Stuck
from agents.checks.target import OUTPUT_BYTES_MAX, Result, Target, cut, why
from controlplane.model.checks import ScriptCheck, State

FLOOD_BYTES_MAX = 1 << 20
"""Of output that is read, and for the most part dropped; a run that writes more is killed."""
READ_BYTES = 65_536
FILE_BYTES_MAX = 10 << 20
"""Of each file that it writes."""
FILES_MAX = 256
_LIMITS = 'ulimit -c 0; ulimit -f {blocks}; ulimit -n {files}; ulimit -t {cpu_s}; ulimit -v {kb}; exec "$@"'
_SH = "/bin/sh"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FLOOR_MARK = "HFT_FLOOR"
"""Of every process of a floor (supervisor/program.py): what leaves its session ends at `hftctl down`."""


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    """As subprocess has it: negative for a signal."""
    output: bytes
    """Its beginning, one byte longer than is shown where there was more."""
    flooded: bool = False


class Scripts:
    def __init__(self, folder: Path, owner: str = "", environment: Mapping[str, str] = os.environ) -> None:
        """`owner`: the agent, as the next one of its host calls itself; empty in tests of a look alone."""
        self.folder, self.owner = folder, owner
        self._marks = {FLOOR_MARK: environment[FLOOR_MARK]} if FLOOR_MARK in environment else {}
        if owner:
            self._marks[leftovers.OWNER] = owner
        self._unreaped: dict[str, _Child] = {}
        """By check: killed, and not dead yet."""

    def __repr__(self) -> str:
        return f"<Scripts in {self.folder}: {len(self._unreaped)} do not die>"

    async def probe(self, check: ScriptCheck, target: Target, key: str) -> Result:
        """Cancelling it kills what runs. Raises Stuck: an earlier run of this check does not die."""
        refused = trouble(self.folder, check.program) or _not_as(check.user)
        if refused:
            return Result("critical", refused)
        words = [target.filled(each) for each in check.arguments]
        limits = _LIMITS.format(
            blocks=FILE_BYTES_MAX // 512,
            files=FILES_MAX,
            cpu_s=math.ceil(check.timeout_s) + 1,
            kb=check.memory_mb * 1024,
        )
        command = [_SH, "-c", limits, "check", str(self.folder / check.program), *words]
        environment = {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HFT_HOST": target.host,
            "HFT_SERVICE": target.service,
            "HFT_INSTANCE": target.instance,
            "HFT_CHECK": check.name,
        }
        return judge(check.program, await self.run(key, command, environment, check.user))

    async def run(
        self, key: str, command: Sequence[str], environment: Mapping[str, str], user: str = ""
    ) -> Ended:
        """Run a command to its end. Raises OSError (not started) and Stuck."""
        if key in self._unreaped:
            raise Stuck(f"its run before this one, pid {self._unreaped[key].pid}, does not die")
        run = secrets.token_hex(8)
        child = _Child(command, {**self._marks, **environment, leftovers.RUN: run}, user)
        try:
            return await child.ended()
        finally:
            if not child.alone:
                threading.Thread(target=leftovers.end, args=(leftovers.RUN, run), daemon=True).start()
            if not child.end():
                self._unreaped[key] = child
                child.on_reaped(lambda: self._unreaped.pop(key, None))


def trouble(folder: Path, program: str) -> str:
    """Why a program is not run; empty: it is."""
    for path, wanted in ((folder, stat.S_ISDIR), (folder / program, stat.S_ISREG)):
        try:
            found = path.stat()
        except OSError as exc:
            return f"{path}: {why(exc)}"
        if not wanted(found.st_mode):
            return f"{path} is not a {'folder' if wanted is stat.S_ISDIR else 'file'}"
        if found.st_uid not in (0, os.geteuid()):
            return f"{path} belongs to user {found.st_uid}, neither to root nor to the floor's own: not run"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{path} may be written by others (mode {stat.S_IMODE(found.st_mode):04o}): not run"
    return ""


def _not_as(user: str) -> str:
    if not user:
        return ""
    try:
        wanted = pwd.getpwnam(user)
    except KeyError:
        return f'there is no user "{user}" on this host'
    if os.geteuid() not in (0, wanted.pw_uid):
        return f"only root can run it as {user}, and this agent is user {os.geteuid()}"
    return ""


def judge(program: str, ended: Ended) -> Result:
    """What a run means. Pure."""
    said = cut(ended.output)
    if ended.flooded:
        return Result("critical", f"{program} wrote more than {FLOOD_BYTES_MAX} bytes, killed: {said[:200]}")
    state: State = {0: "passing", 1: "warning"}.get(ended.status, "critical")  # type: ignore[assignment]
    if ended.status < 0:
        how = (
            signal.Signals(-ended.status).name if -ended.status in set(signal.Signals) else str(-ended.status)
        )
        return Result(state, f"{program} was killed by {how}{': ' if said else ''}{said}")
    if said:
        return Result(state, said)
    return Result(state, f"{program} ended with status {ended.status}")


class _Child:
    """One run: its process group, its output, its end."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], user: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._output, self._seen, self.flooded = bytearray(), 0, False
        self.alone = False
        """It has ended, and nobody else has its output open: it left nothing behind, as far as that tells."""
        self._read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read, False)
        drop: dict[str, object] = {}
        if user and pwd.getpwnam(user).pw_uid != os.geteuid():
            entry = pwd.getpwnam(user)
            drop = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                cwd="/",
                env=dict(environment),
                start_new_session=True,
                **drop,  # type: ignore[call-overload]
            )
        except BaseException:
            os.close(self._read)
            raise
        finally:
            os.close(write)
        self.pid: int = self._process.pid
        self._pidfd = -1
        self._done: asyncio.Future[None] = self._loop.create_future()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self.end()
            raise
        self._loop.add_reader(self._pidfd, self._settle)
        self._loop.add_reader(self._read, self._take)

    async def ended(self) -> Ended:
        await self._done
        self._kill()  # what it has left behind in its group; it is not reaped yet, so the number is its own
        while not self.flooded and not self.alone and self._take():
            pass
        status = self._process.poll()
        return Ended(0 if status is None else status, bytes(self._output), self.flooded)

    def end(self) -> bool:
        """Kill what runs and let go of the output; False: it is not dead yet, and `on_reaped` tells."""
        self._kill()
        self._loop.remove_reader(self._read)
        os.close(self._read)
        if self._pidfd < 0:
            self._process.wait()
            return True
        self._loop.remove_reader(self._pidfd)
        if self._process.poll() is not None:
            os.close(self._pidfd)
            return True
        return False

    def on_reaped(self, tell: Callable[[], object]) -> None:
        def reap() -> None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._process.wait()  # a zombie by now
            tell()

        self._loop.add_reader(self._pidfd, reap)

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _settle(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _take(self) -> bool:
        """One piece of what the pipe has: the loop has others to serve. False: there is no more now."""
        try:
            part = os.read(self._read, READ_BYTES)
        except BlockingIOError:
            return False
        if not part:
            self.alone = self._done.done()
            self._loop.remove_reader(self._read)
            return False
        self._seen += len(part)
        self._output += part[: max(0, OUTPUT_BYTES_MAX + 1 - len(self._output))]
        if self._seen > FLOOD_BYTES_MAX and not self.flooded:
            self.flooded = True
            self._loop.remove_reader(self._read)
            self._kill()
        return True
