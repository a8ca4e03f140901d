"""hft-keeperd: the keeper as a process. Small, in a session of its own, deaf to its agent's death.

    hft-keeperd --site S --host H --site-dir D --run-dir R --store etcd://127.0.0.1:2379

SIGTERM releases what is led here and takes the registrations back, then exits 0. Only one keeper of a host
runs (R18): the lock file names the old one, whose pidfd must say that it is dead before the lock is even
tried; one that does not die in time makes this one refuse (exit 2).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import logging.handlers
import os
import queue
import select
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from agents.keeper import keeper as keepers
from agents.keeper import line as lines
from agents.keeper import settings
from agents.keeper.protocol import FromKeeper, Hello
from agents.keeper.seen_tokens import SeenTokens
from controlplane import store
from controlplane.errors import HftctlError, InUse
from controlplane.host import identity
from controlplane.host.system_clock import SystemClock
from controlplane.model import Process
from controlplane.store.keys import Keys
from hftd.sched import policy, slice

log = logging.getLogger(__name__)

SCHED = "fifo:2"
"""Where it may have it: one above the daemons that ask for SCHED_FIFO, so that none of them keeps their
keeper from renewing or from handing over."""

OLD_KEEPER_WAIT_S = 5.0
"""A keeper that was killed is gone within milliseconds; one that is stopped (SIGSTOP) never goes by
itself."""

LOG_QUEUE_MAX = 10_000
"""Lines that wait for the disk; more are dropped: the loop never waits for a log."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    slice.ask(slice.SHORT_NS)  # a death is answered before its successor's interpreter starts to import
    sys.setswitchinterval(0.0005)  # not 5 ms: the thread that writes the log does not hold up a hand-over
    with contextlib.suppress(PermissionError):  # already the leader of its session
        os.setsid()
    with logging_aside(arguments.log):
        try:
            with sole_keeper(
                arguments.site_dir / "hosts" / arguments.host / "keeper.lock",
                arguments.host,
                arguments.wait_old,
            ):
                return asyncio.run(_serve(arguments))
        except HftctlError as exc:
            return _fail(arguments, str(exc), exc.exit_code)
        except OSError as exc:
            return _fail(arguments, f"{exc.filename or arguments.run_dir}: {exc.strerror or exc}", 1)
        except ExceptionGroup:
            # Nobody here knows what it is: the agent starts a new keeper, within the deadline of every word
            # that this one armed.
            log.critical("the keeper fails", exc_info=True)
            return 1


def _fail(arguments: argparse.Namespace, why: str, exit_code: int) -> int:
    log.error("%s", why)
    if arguments.log:
        print(f"hft-keeperd: {why}", file=sys.stderr)
    return exit_code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hft-keeperd", description="Keeps leases, leadership and registrations of one host's instances."
    )
    parser.add_argument("--site", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--site-dir", required=True, type=Path)
    parser.add_argument("--run-dir", required=True, type=Path)
    parser.add_argument("--store", required=True, help="etcd://HOST:PORT[,HOST:PORT...]")
    parser.add_argument("--address", default="127.0.0.1", help="where peers' pings are answered (UDP)")
    parser.add_argument("--log", type=Path, help="append to this file instead of stderr")
    parser.add_argument(
        "--wait-old",
        type=float,
        default=OLD_KEEPER_WAIT_S,
        metavar="S",
        help="for the death of an old keeper; then refuse",
    )
    return parser.parse_args(argv)


async def _serve(arguments: argparse.Namespace) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = store.connect(arguments.store)
    disk = SeenTokens(arguments.site_dir / "hosts" / arguments.host / "keeper.json")
    chosen = settings.Settings(address=arguments.address)
    keeper = keepers.Keeper(client, Keys(arguments.site), arguments.host, chosen, SystemClock(), disk)
    line = lines.Line(lambda: FromKeeper(hello=Hello(keeper.peers.address)), keeper.apply)
    keeper.tell = line.send
    keeper.lines_undecodable = lambda: line.undecodable
    await keeper.open()
    running = asyncio.create_task(keeper.run(), name="keeper")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await line.open(arguments.run_dir / f"{arguments.host}.keeper.sock")
        log.info("keeper of %s: pings on %s, store %s", arguments.host, keeper.peers.address, arguments.store)
        if left_out := policy.take(SCHED):  # behind the imports, as the daemons do
            log.info("keeper of %s: %s", arguments.host, left_out)
        gc.freeze()  # what is here now stays for life: later collections need not look at it
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # raises what it failed with
            return 1
        await keeper.stop()
        return 0
    finally:
        running.cancel()
        stopping.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
        await line.close()
        if disk.dirty:
            disk.save(disk.content())
        await client.close()
        log.info("keeper of %s: stopped", arguments.host)


@contextlib.contextmanager
def sole_keeper(path: Path, host: str, wait_s: float) -> Iterator[None]:
    """R18: the old keeper is dead for certain (pidfd, then lock) before this one does anything.

    Raises:
        InUse: it lives on after `wait_s`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # not inherited by a child
    try:
        old = _named(os.pread(fd, 4096, 0))
        if old is not None and old.pid != os.getpid() and not _ended(old, wait_s):
            raise InUse(f"{path}: keeper {old.instance} (pid {old.pid}) still runs after {wait_s} s")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InUse(f"{path}: held by another process; a host has one keeper") from exc
        me = identity.myself(f"keeper-{host}")
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(asdict(me)).encode(), 0)
        yield
    finally:
        os.close(fd)


def _named(content: bytes) -> Process | None:
    try:
        return msgspec.json.decode(content, type=Process)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # empty, or written in part by one that died: the lock alone tells


def _ended(process: Process, wait_s: float) -> bool:
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not identity.runs(process):
            return True
        return bool(select.select([fd], [], [], wait_s)[0])
    finally:
        os.close(fd)


@contextlib.contextmanager
def logging_aside(path: Path | None) -> Iterator[None]:
    """Log through a queue: a thread writes, the loop never waits for a disk or a pipe."""
    lines: queue.Queue[logging.LogRecord] = queue.Queue(LOG_QUEUE_MAX)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    target: logging.Handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    target.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    logging.raiseExceptions = False  # a full queue or a closed pipe drops the line
    listener = logging.handlers.QueueListener(lines, target)
    root = logging.getLogger()
    handler = logging.handlers.QueueHandler(lines)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        root.removeHandler(handler)
        target.close()


if __name__ == "__main__":
    sys.exit(main())
