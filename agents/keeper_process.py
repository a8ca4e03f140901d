"""The agent's keeper: started, adopted, restarted at once when it dies, and told all that it has to know.

The keeper runs in a session of its own and goes on when the agent dies; the next agent finds it by the
identity in its lock file. A new one is started only when the old one is dead for certain (R18: pidfd here,
the lock in the keeper itself). One that falls silent (stopped, stuck) is an alarm, then it is ended
(keeper_silence.py). Over its socket go JSON lines: the whole desired table at connect and at each change;
back come its address, deaths that it saw, and once a second the groups that it leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import anyio
import msgspec

from agents import keeper_silence, paths
from agents.keeper import protocol
from agents.supervisor import runner
from controlplane.errors import InvalidInput
from controlplane.host import identity, locks
from controlplane.leadership import budget
from controlplane.model import Process
from controlplane.resilience import backoff

CONNECT_EVERY_S = 0.05
"""Between two tries while a keeper is coming up."""
STOP_GRACE_S = 5.0
LAST_LINE_MAX = 300
"""Characters of the keeper's last line that an alarm shows."""
TAIL_BYTES = 4096
UNLED = (
    "until another one runs, what leads on this host stops at the end of its lease, and nothing takes over "
    "here"
)


class KeeperProcess:
    def __init__(
        self,
        folders: paths.Paths,
        command: tuple[str, ...],
        *,
        table: Callable[[], protocol.Table | None],
        report: Callable[..., None],
        heard: Callable[[protocol.FromKeeper], None],
        profile: Callable[[], str],
        troubled: Callable[[str], None],
    ) -> None:
        """`table` gives the present table, None while it is not known; `heard` gets each message of the
        keeper; `profile` names the lease profile in force; `troubled` hears when `trouble` has changed.
        """
        self._folders, self._command = folders, command
        self._table, self._report, self._heard = table, report, heard
        self._profile, self._troubled = profile, troubled
        self._silence = keeper_silence.Silence()
        self._news = asyncio.Event()
        self._pidfd = -1
        self._closing = asyncio.Event()
        self.process: Process | None = None
        self.restarts = 0
        self.connected = False
        self.trouble = ""
        """Why nothing is led from this host, or soon will not be: its keeper is dead or silent. Empty from
        the first report of one that works."""
        self.undecodable = 0
        """Lines from the keeper."""

    def __repr__(self) -> str:
        return (
            f"<KeeperProcess pid {self.process.pid if self.process else None} "
            f"{'connected' if self.connected else 'not connected'}>"
        )

    def changed(self) -> None:
        """The table may have changed: send it, if it has."""
        self._news.set()

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_running, name="keeper process")
            tasks.start_soon(self._talk, name="keeper socket")
            tasks.start_soon(self._judge_silence, name="keeper silence")

    async def stop(self) -> None:
        """End the keeper: only when the whole host goes down."""
        self._closing.set()
        keeper = self.process
        if keeper is None or self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        deadline_mono_s = time.monotonic() + STOP_GRACE_S
        while identity.runs(keeper):
            if time.monotonic() > deadline_mono_s:
                with contextlib.suppress(ProcessLookupError, OSError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                return
            await anyio.sleep(0.01)

    # --- the process ----------------------------------------------------------------------------------------

    async def _keep_running(self) -> None:
        row = backoff.Restarts()
        while not self._closing.is_set():
            began_mono_s = time.monotonic()
            child: subprocess.Popen[bytes] | None = None
            keeper = self._running_already()
            if keeper is not None:
                self._report("keeper.adopted", pid=keeper.pid)
                self._silence = keeper_silence.Silence()
            else:
                child = self._start()
                keeper = identity.identify(f"keeper-{self._folders.host}", child.pid)
                self._silence = keeper_silence.Silence(started=True)
            words = await self._watch(keeper, child)
            if self._closing.is_set():
                return
            row, delay_s = row.died(time.monotonic() - began_mono_s)
            self.restarts += 1
            self._is_troubled(
                f"the keeper has ended ({words}; {row.count} times in a row): {UNLED}; see {self._logs}. Its "
                f"last line: {await asyncio.to_thread(self._last_line)}"
            )
            self._report(
                "keeper.exited", pid=keeper.pid if keeper else None, reason=words, restart_in_s=delay_s
            )
            await anyio.sleep(delay_s)

    async def _watch(self, keeper: Process | None, child: subprocess.Popen[bytes] | None) -> str:
        """Until it is dead; returns how it died, as far as one can know."""
        pidfd = identity.open_pidfd(keeper) if keeper is not None else None
        if keeper is not None and pidfd is not None:
            try:
                self.process, self._pidfd = keeper, pidfd
                await runner.readable(pidfd)
            finally:
                os.close(self._pidfd)
                self._pidfd, self.process = -1, None
        if child is None:
            return "gone (it was not this agent's child)"
        code = await asyncio.to_thread(child.wait)
        return runner.Exit(code, None, 0).words if code >= 0 else runner.Exit(None, -code, 0).words

    def _start(self) -> subprocess.Popen[bytes]:
        log = self._folders.log(f"keeper-{self._folders.host}")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd="/",
            )
        self._report("keeper.started", pid=child.pid)
        return child

    def _running_already(self) -> Process | None:
        """By the lock itself: what its file says may be damaged, or name what is another process by now."""
        return locks.holder(self._folders.host_dir / "keeper.lock", f"keeper-{self._folders.host}")

    # --- silence --------------------------------------------------------------------------------------------

    async def _judge_silence(self) -> None:
        """R18: one that says nothing for as long as its words last is ended; the next one is started when its
        pidfd says that it is dead.
        """
        before_mono_s = time.monotonic()
        while True:
            await anyio.sleep(keeper_silence.STEP_S)
            now_mono_s = time.monotonic()
            passed_s, before_mono_s = now_mono_s - before_mono_s, now_mono_s
            keeper, silence = self.process, self._silence
            if keeper is None or self._closing.is_set():
                continue
            silence.step(passed_s)
            lease = budget.profile(self._profile())
            if not silence.alarming(lease):
                continue
            self._is_troubled(
                f"the keeper (pid {keeper.pid}) says nothing and is started anew: {UNLED}; see {self._logs}"
            )
            if silence.to_be_ended(lease):
                self._silence = keeper_silence.Silence(started=True)  # one signal, and time to die
                self._report("keeper.killed", pid=keeper.pid, silent_s=round(silence.s, 2))
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _is_troubled(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._troubled(trouble)

    @property
    def _logs(self) -> str:
        return f"`hftctl logs keeper-{self._folders.host}`"

    def _last_line(self) -> str:
        """What the keeper has logged last; a few words when it has logged nothing, or it cannot be read."""
        path = self._folders.log(f"keeper-{self._folders.host}")
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAIL_BYTES))
                lines = file.read(TAIL_BYTES).decode(errors="replace").split("\n")
        except OSError as exc:
            return f"not known ({path}: {exc.strerror})"
        return next((line.strip()[:LAST_LINE_MAX] for line in reversed(lines) if line.strip()), "none")

    # --- the socket -----------------------------------------------------------------------------------------

    async def _talk(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(
                    str(self._folders.keeper_socket), limit=protocol.LINE_BYTES_MAX
                )
            except OSError:
                await anyio.sleep(CONNECT_EVERY_S)
                continue
            self.connected = True
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._tell, writer, tasks.cancel_scope, name="keeper tell")
                    await self._listen(reader)
                    tasks.cancel_scope.cancel()
            finally:
                self.connected = False
                writer.close()
            await anyio.sleep(CONNECT_EVERY_S)

    async def _tell(self, writer: asyncio.StreamWriter, scope: anyio.CancelScope) -> None:
        """Send the table whenever it differs from what was sent last on this connection."""
        sent = b""
        while True:
            self._news.clear()
            table = self._table()
            if table is not None:
                line = msgspec.json.encode(table)
                if line != sent:
                    try:
                        writer.write(line + b"\n")
                        await writer.drain()
                    except OSError:
                        scope.cancel()
                        return
                    sent = line
            await self._news.wait()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except (OSError, ValueError):
                return
            if not line:
                return
            try:
                message = protocol.decode_from_keeper(line)
            except InvalidInput:
                self.undecodable += 1  # half a line of a keeper that died while it wrote, or rubbish
                continue
            self._silence.heard()
            if message.groups is not None:
                self._is_troubled("")
            self._heard(message)


def keeper_command(site: str, folders: paths.Paths, store: str, check_s: float) -> tuple[str, ...]:
    options = {
        "site": site,
        "host": folders.host,
        "site-dir": folders.site_dir,
        "run-dir": folders.run_dir,
        "store": store,
        "check-s": check_s,
    }
    return (
        sys.executable,
        "-m",
        "agents.keeper.daemon",
        *(f"--{name}={value}" for name, value in options.items()),
    )
