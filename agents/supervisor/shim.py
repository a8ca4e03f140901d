"""The parent of one daemon. It outlives the agent, so that an agent can be killed and replaced while the
daemons trade on.

Run by path as `python -I -S shim.py KEY=VALUE ... -- ARGV ...`, never imported by the agent: it imports as
little as it can (there is one for every daemon), nothing of ours, and parses and writes its few fields by
hand. The daemon's environment is the shim's own.

Promises: the state file names shim and daemon before the daemon runs its first instruction; an instance has
one, as both hold its lock for as long as either lives; the daemon starts with nothing that its starter had
(signals blocked or ignored, umask, niceness, cores, working directory) and dies with the shim (where the
kernel forgets that, for a program with rights of its own, the log says so and the agent sees to it); what the
daemon has started ends with it; SIGTERM is passed on and followed by SIGKILL after the grace; the exit status
is in the state file before the shim goes; a full disk or a closed pipe under the log loses lines (counted,
and said once there is room), never the daemon; a log that was removed or renamed is begun anew. Who starts
it and reads its state: runner.py.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` wraps the same calls in enums, for 0.7 MB a shim
import os
import select
import sys
from time import gmtime, monotonic, strftime, time_ns

PIPE_BYTES = 1 << 20
"""A slow disk under the log stalls the daemon only once this much is waiting."""
READ_BYTES = 1 << 16
DRAIN_S = 0.2
"""After the daemon's death its pipe may still be held by a child of its own; what has not come by then is not
waited for."""
LOCK_WAIT_S = 3.0
"""For the one before, which may still drain its pipe."""
ORPHANS_S = 1.0
"""For what a daemon has left behind to die by SIGKILL."""
F_SETPIPE_SZ = 1031
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
EXEC_FAILED = 127
LOCKED_OUT = 75
NAME_BYTES = 512
"""Of a lock file: controlplane/host/locks.py."""
OWNERS_ALONE = 0o077
FIRST_PROCESS = 1
TITLE_FIELDS = 45, 46
"""Of /proc/PID/stat behind the name: where the command line begins and ends in memory."""


class Log:
    """An append-only file, rotated by size: `log`, `log.1`, `log.2` ..."""

    def __init__(self, path: str, bytes_max: int, files_max: int, instance: str) -> None:
        self.path, self.bytes_max, self.files_max = path, bytes_max, files_max
        self.instance = instance
        self.fd = -1
        self.file = (0, 0)
        self.size = 0
        self.lines_dropped = 0
        """In all, for the state file."""
        self._lines_unsaid = 0

    def write(self, chunk: bytes) -> None:
        """Append, or count what was lost."""
        if self._lines_unsaid:
            said = f"shim.lines_dropped lines={self._lines_unsaid} why='no room'"
            self._append(line("WARNING", self.instance, said), unsaid_lines=0)
        self._append(chunk, unsaid_lines=chunk.count(b"\n") or 1)

    def say(self, level: str, text: str) -> None:
        self.write(line(level, self.instance, text))

    def _append(self, chunk: bytes, unsaid_lines: int) -> None:
        try:
            if self.fd < 0 or not self._is_there():
                self._open()
            elif self.size + len(chunk) > self.bytes_max:
                self._rotate()
            while chunk:
                written = os.write(self.fd, chunk)
                self.size += written
                chunk = chunk[written:]
        except OSError:
            self.lines_dropped += unsaid_lines
            self._lines_unsaid += unsaid_lines
        else:
            if not unsaid_lines:
                self._lines_unsaid = 0

    def _rotate(self) -> None:
        for n in range(self.files_max - 1, 0, -1):
            older = f"{self.path}.{n}"
            newer = f"{self.path}.{n - 1}" if n > 1 else self.path
            if os.path.exists(newer):  # noqa: PTH110  pathlib would be imported for this alone
                os.replace(newer, older)  # noqa: PTH105
        self._open()

    def _is_there(self) -> bool:
        """False when somebody has removed or renamed it: what goes into the open one would be read by
        nobody.
        """
        try:
            found = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return False
        self.size = found.st_size
        return (found.st_dev, found.st_ino) == self.file

    def _open(self) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self.fd >= 0:
            os.close(self.fd)
        found = os.fstat(fd)
        self.fd, self.file, self.size = fd, (found.st_dev, found.st_ino), found.st_size


def prctl(option: int, value: int) -> None:
    """By hand: the ctypes package around it costs a shim 0.6 MB."""
    import _ctypes

    call = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
    _ctypes.call_function(call, (option, value, 0, 0, 0))


def show_title(instance: str, words: list[str]) -> None:
    """In ps and top as `hft-shim INSTANCE`, as controlplane/host/title.py does it. Behind it the command line
    stays as it is up to its `--`: it is what shim_search.py knows a shim by.
    """
    try:
        encoded = [os.fsencode(word) for word in words]
        kept = encoded[1 : encoded.index(b"--") + 1]
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        start, end = (int(fields[number]) for number in TITLE_FIELDS)
        room = end - start - 1 - sum(len(word) + 1 for word in kept)
        title = f"hft-shim {instance}".encode()
        for path, offset, content in (
            ("/proc/self/comm", 0, title[:15]),
            ("/proc/self/mem", start, b"\0".join([title[:room], *kept]).ljust(end - start, b"\0")),
        ):
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                if offset:
                    os.lseek(fd, offset, os.SEEK_SET)
                os.write(fd, content)
            finally:
                os.close(fd)
    except (OSError, ValueError, IndexError):
        pass  # it keeps the name that it was started with


def line(level: str, instance: str, text: str) -> bytes:
    """In the format of every process: controlplane/host/log_line.py, by hand."""
    second, ns = divmod(time_ns(), 1_000_000_000)
    stamp = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
    return f"{stamp}.{ns // 1_000_000:03d}Z {level} {instance} {text}\n".encode(errors="backslashreplace")


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat: with boot id and pid it says which process this is."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[19])


def text(value: str) -> str:
    """A JSON string."""
    return '"' + "".join(c if c >= " " and c not in '"\\' else f"\\u{ord(c):04x}" for c in value) + '"'


class Lock:
    """The instance's: controlplane/host/locks.py reads it. The daemon inherits it, so that one which outlives
    its shim still has it."""

    def __init__(self, path: str) -> None:
        """Raises OSError: another process goes on holding it, or it cannot be made."""
        import fcntl

        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until_mono_s = monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > until_mono_s:
                    raise
            select.select([], [], [], 0.01)

    def name(self, instance: str, boot_id: str, pid: int) -> None:
        """Who has it, for people and for the next agent. A full disk leaves it to the kernel's word."""
        said = (
            f'{{"name": {text(instance)}, "pid": {pid}, "start_time": {start_time(pid)}, "boot_id": '
            f"{text(boot_id)}}}"
        )
        try:  # noqa: SIM105
            os.pwrite(self.fd, said.encode().ljust(NAME_BYTES - 1) + b"\n", 0)
        except OSError:
            pass


class StateFile:
    """The file that the agent reads: who runs, what it was started from, and how it ended."""

    def __init__(self, plan: dict[str, str], boot_id: str, daemon_pid: int) -> None:
        self.path = plan["state"]
        shim_pid = os.getpid()
        self.head = (
            f'"instance": {text(plan["instance"])}, "service": {text(plan["service"])}, "host": '
            f"{text(plan['host'])}, "
            f'"spec_hash": {text(plan["spec_hash"])}, "spec_revision": {int(plan["spec_revision"])}, '
            f'"config_revision": {int(plan["config_revision"])}, '
            f'"restarts": {int(plan["restarts"])}, "crashes": {int(plan.get("crashes", "0"))}, '
            f'"boot_id": {text(boot_id)}, "started_ns": {time_ns()}, '
            f'"shim": {{"pid": {shim_pid}, "start_time": {start_time(shim_pid)}}}, '
            f'"daemon": {{"pid": {daemon_pid}, "start_time": {start_time(daemon_pid)}}}'
        )
        self.left_out = "[]"
        self.exit = "null"
        self.stop_asked = False

    def write(self, log: Log) -> None:
        """Replace the file atomically; where even the run folder has no room, the agent sees the death by
        pidfd alone.
        """
        body = (
            f'{{{self.head}, "left_out": {self.left_out}, "stop_asked": '
            f"{'true' if self.stop_asked else 'false'}, "
            f'"log_lines_dropped": {log.lines_dropped}, "exit": {self.exit}}}\n'
        )
        fresh = f"{self.path}.{os.getpid()}"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
            try:
                os.write(fd, body.encode())
            finally:
                os.close(fd)
            os.rename(fresh, self.path)  # noqa: PTH104
        except OSError as exc:
            log.say("ERROR", f"shim.state_not_written path={self.path!r} reason={str(exc)!r}")

    def ended(self, wait_status: int) -> None:
        code = os.waitstatus_to_exitcode(wait_status)
        status, number = (code, "null") if code >= 0 else ("null", -code)
        self.exit = f'{{"status": {status}, "signal": {number}, "at_ns": {time_ns()}}}'


def become_daemon(argv: list[str], instance: str, shim_pid: int, go: int, out: int) -> None:
    """In the child: wait until the shim has written who we are, then become the daemon. Never returns."""
    try:
        # Signals are blocked until theirs are the daemon's meanings: one that met the shim's own handler here
        # would be lost, and the daemon's end with it.
        signal.set_wakeup_fd(-1)
        forget_starter()
        os.setpgid(0, 0)  # so that its group can be ended without the shim
        prctl(PR_SET_PDEATHSIG, 9)
        if os.getppid() != shim_pid or os.read(go, 1) != b"1":
            os._exit(EXEC_FAILED)  # the shim died before or while it told us to go
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.execve(argv[0], argv, {**os.environ, "HFT_SHIM": str(shim_pid)})
    except BaseException as exc:
        os.write(out, line("ERROR", instance, f"shim.cannot_run program={argv[0]!r} reason={str(exc)!r}"))
    os._exit(EXEC_FAILED)


def forget_starter() -> None:
    """What the daemon would have from the agent (controlplane/host/inherited.py says why). SIGINT and SIGHUP
    stay ignored: neither means anything to a daemon, and a leader does not end by a slip.
    """
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(OWNERS_ALONE)
    os.chdir("/")
    try:  # noqa: SIM105
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass  # not permitted: as nice as the agent


def may_outlive(pid: int) -> str:
    """Why the kernel has forgotten that the daemon is to die with us: it does so at the exec of a program
    with more rights than its starter (prctl(2), PR_SET_PDEATHSIG). Empty: it has not.
    """
    try:
        ours, its = rights(os.getpid()), rights(pid)
    except (OSError, LookupError, ValueError):
        return ""  # it is gone again
    (user, acting), (group, acting_group), permitted, ambient = its
    if user != acting or group != acting_group:
        return f"it runs with the rights of user {acting}, group {acting_group}"
    if (user and permitted & ~ambient) or permitted & ~ours[2]:
        return f"its program has file capabilities ({permitted:x})"
    return ""


def rights(pid: int) -> tuple[list[int], list[int], int, int]:
    """User and group, each real and effective; capabilities, permitted and ambient."""
    with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123
        found = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    user, group = ([int(each) for each in found[name].split()[:2]] for name in (b"Uid", b"Gid"))
    return user, group, int(found[b"CapPrm"], 16), int(found[b"CapAmb"], 16)


def place(pid: int, plan: dict[str, str]) -> list[str]:
    """CPUs of the daemon before it runs: its own, else those of the first process, whatever the agent has;
    what was not allowed comes back as a list of words.
    """
    left_out = []
    if not plan.get("cpus"):
        try:  # noqa: SIM105
            os.sched_setaffinity(pid, os.sched_getaffinity(FIRST_PROCESS))
        except OSError:
            pass
    if plan.get("cpus"):
        try:
            os.sched_setaffinity(pid, {int(cpu) for cpu in plan["cpus"].split(",")})
        except OSError as exc:
            left_out.append(f"cpus {plan['cpus']}: {exc.strerror}")
    return left_out


def main(arguments: list[str]) -> int:
    split = arguments.index("--")
    plan = dict(argument.split("=", 1) for argument in arguments[:split])
    argv = arguments[split + 1 :]
    ready = int(plan["ready_fd"])
    os.set_inheritable(ready, False)
    log = Log(plan["log"], int(plan["log_bytes"]), int(plan["log_files"]), plan["instance"])
    try:
        lock = Lock(plan["lock"])
    except OSError as exc:
        log.say("ERROR", f"shim.locked_out path={plan['lock']!r} reason={str(exc)!r}")
        os.write(ready, b"0")
        return LOCKED_OUT
    show_title(plan["instance"], sys.orig_argv)
    try:  # noqa: SIM105
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    except (ImportError, AttributeError, OSError):
        pass  # no libffi: then what leaves the daemon's group outlives it
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda number, frame: None)  # the wake-up pipe carries the number
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)

    out_read, out_write = os.pipe()
    go_read, go_write = os.pipe()
    shim_pid = os.getpid()
    exec_read, exec_write = os.pipe()  # closed in the child by its exec
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    pid = os.fork()
    if not pid:
        os.close(go_write)
        os.set_inheritable(lock.fd, True)
        become_daemon(argv, plan["instance"], shim_pid, go_read, out_write)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.close(out_write)
    os.close(go_read)
    os.close(exec_write)
    import fcntl

    try:  # noqa: SIM105  contextlib would be imported for this alone
        fcntl.fcntl(out_read, F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # over the user's limit of pipe pages: the default 64 KiB it is
    with open("/proc/sys/kernel/random/boot_id") as file:  # noqa: PTH123
        boot_id = file.read().strip()
    state = StateFile(plan, boot_id, pid)
    state.left_out = "[" + ", ".join(text(word) for word in place(pid, plan)) + "]"
    state.write(log)
    lock.name(plan["instance"], boot_id, pid)
    os.write(go_write, b"1")
    os.close(go_write)
    try:  # noqa: SIM105
        os.write(ready, b"1")
    except OSError:
        pass  # the agent died meanwhile; the next one reads the state file
    os.close(ready)
    return watch(pid, state, log, out_read, wake_read, exec_read, float(plan["grace_s"]))


def watch(pid: int, state: StateFile, log: Log, out: int, wake: int, became: int, grace_s: float) -> int:
    """Copy output and pass signals on until the daemon has ended and its last words are written. `became`
    ends when the child has become the daemon.
    """
    poll = select.poll()
    poll.register(became, select.POLLIN)
    poll.register(out, select.POLLIN)
    poll.register(wake, select.POLLIN)
    out_open, alive = True, True
    kill_at_mono_s = drained_at_mono_s = float("inf")
    while alive or (out_open and monotonic() < drained_at_mono_s):
        deadline_mono_s = kill_at_mono_s if alive else drained_at_mono_s
        timeout_ms = (
            None
            if deadline_mono_s == float("inf")
            else max(0, int((deadline_mono_s - monotonic()) * 1000) + 1)
        )
        for fd, _ in poll.poll(timeout_ms):
            if fd == out:
                chunk = os.read(out, READ_BYTES)
                if chunk:
                    log.write(chunk)
                else:
                    poll.unregister(out)
                    out_open = False
            elif fd == became:
                poll.unregister(became)
                os.close(became)
                if why := may_outlive(pid):
                    log.say("WARNING", f"shim.may_be_outlived why={why!r}")
            elif signal.SIGTERM in os.read(wake, 512) and alive and not state.stop_asked:
                state.stop_asked = True
                state.write(log)
                kill_at_mono_s = monotonic() + grace_s
                os.kill(pid, signal.SIGTERM)
        if alive and monotonic() >= kill_at_mono_s:
            kill_at_mono_s = float("inf")
            log.say("WARNING", f"shim.daemon_killed why='did not stop within {grace_s:g} s'")
            os.kill(pid, signal.SIGKILL)
        if alive and ended(pid):
            alive = False
            end_group(pid)  # before it is reaped: until then its number is nobody else's
            drained_at_mono_s = monotonic() + DRAIN_S
            state.ended(os.waitpid(pid, 0)[1])
            state.write(log)
            end_orphans()
    return 0


def ended(pid: int) -> bool:
    """Whether the daemon is dead, which leaves it to be reaped. Orphans of it that have died are reaped."""
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == pid:
            return True
        os.waitpid(found.si_pid, 0)
    return False


def end_group(pid: int) -> None:
    try:  # noqa: SIM105
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass  # nobody but the daemon was in it


def end_orphans() -> None:
    """Kill what the daemon has left behind, in sessions of its own too: it has come to us (subreaper)."""
    until_mono_s = monotonic() + ORPHANS_S
    while monotonic() < until_mono_s:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            me = os.getpid()
            with open(f"/proc/{me}/task/{me}/children", "rb") as file:  # noqa: PTH123
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
        except (ChildProcessError, FileNotFoundError):
            return  # none is left, or the kernel does not tell
        select.select([], [], [], 0.005)


if __name__ == "__main__":
    # Nothing to flush, and an interpreter's own shutdown costs 3 ms of CPU just when a standby takes over.
    os._exit(main(sys.argv[1:]))
