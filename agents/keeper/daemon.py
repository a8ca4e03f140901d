"""hft-keeperd: the keeper as a process. Small, in a session of its own, deaf to its agent's death.

    hft-keeperd --site S --host H --site-dir D --run-dir R --store KIND://HOST:PORT

SIGTERM releases what is led here and takes the registrations back, then exits 0. Only one keeper of a host
runs (R18): the lock file names the old one, whose pidfd must say that it is dead before the lock is even
tried; one that does not die in time makes this one refuse (exit 2).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.keeper import keeper as keepers
from agents.keeper import line as lines
from agents.keeper import settings, witnesses
from agents.keeper.ping_key import PingKey
from agents.keeper.seen_tokens import SeenTokens
from controlplane import store
from controlplane.host import locks, log, run, sched, title
from controlplane.host.system_clock import SystemClock
from controlplane.store import Keys, existing
from hftd.sched import policy, slice

SCHED = f"fifo:{sched.LEASE_PRIORITY}"
"""Where it may have it: one above the daemons that ask for SCHED_FIFO, so that none of them keeps their
keeper from renewing or from handing over."""

OLD_KEEPER_WAIT_S = 5.0
"""A keeper that was killed is gone within milliseconds; one that is stopped (SIGSTOP) never goes by
itself."""

ORDERLY_S = 10.0
"""More than a keeper gives itself for handing back what it leads (settings.stop_s), and than a start-up
takes."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    title.show(f"hft-keeperd {arguments.host}@{arguments.site}", sys.argv[1:])
    slice.ask(slice.SHORT_NS)  # a death is answered before its successor's interpreter starts to import
    sys.setswitchinterval(0.0005)  # not 5 ms: the thread that writes the log does not hold up a hand-over
    with contextlib.suppress(PermissionError):  # already the leader of its session
        os.setsid()
    if arguments.log:
        _log_to(arguments.log)
    # When a task fails nobody here knows why: the agent starts a new keeper, within the deadline of every
    # page that this one armed.
    return run.until_signalled(
        f"keeper-{arguments.host}", lambda stop: _serve(arguments, stop), orderly_s=ORDERLY_S
    )


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    os.dup2(fd, log.STDOUT)
    os.close(fd)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hft-keeperd", description="Keeps leases, leadership and registrations of one host's instances."
    )
    parser.add_argument("--site", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--site-dir", required=True, type=Path)
    parser.add_argument("--run-dir", required=True, type=Path)
    existing.add_argument(parser)
    parser.add_argument("--address", default="127.0.0.1", help="where peers' pings are answered (UDP)")
    parser.add_argument(
        "--check-s",
        type=float,
        default=settings.CHECK_S,
        metavar="S",
        help="on Consul: between two of its probes of an instance",
    )
    parser.add_argument("--log", type=Path, help="append to this file instead of standard output")
    parser.add_argument(
        "--wait-old",
        type=float,
        default=OLD_KEEPER_WAIT_S,
        metavar="S",
        help="for the death of an old keeper; then refuse",
    )
    return parser.parse_args(argv)


async def _serve(arguments: argparse.Namespace, stop: run.Stop) -> int:
    """Keep until told to stop, then give back what is led here.

    R18: the old keeper is dead for certain (pidfd, then lock) before this one does anything. The wait blocks
    the loop, which has nothing to do yet.

    Raises:
        InUse: an old keeper lives on.
    """
    host, folder = arguments.host, arguments.site_dir / "hosts" / arguments.host
    with locks.take(
        folder / "keeper.lock",
        f"keeper-{host}",
        "a host has one keeper",
        old_holder_ends_s=arguments.wait_old,
    ):
        client = store.connect(arguments.store)
        disk = SeenTokens(
            folder / "keeper.json",
            lambda: witnesses.highest(arguments.site_dir, arguments.run_dir, host),
        )
        if disk.trouble:
            log.warning("seen_tokens.rebuilt", reason=disk.trouble)
        chosen = settings.Settings(address=arguments.address, check_s=arguments.check_s)
        key = PingKey(arguments.site_dir)
        keeper = keepers.Keeper(client, Keys(arguments.site), host, chosen, SystemClock(), disk, ping_key=key)
        line = lines.Line(keeper.hello, keeper.apply)
        keeper.tell = line.send
        keeper.lines_undecodable = lambda: line.undecodable
        await keeper.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(keeper.run(), name="keeper")
                socket = arguments.run_dir / f"{host}.keeper.sock"
                await line.open(socket)
                listening = tasks.create_task(line.keep_open(socket), name="socket")
                log.info("keeper.started", pings_on=keeper.peers.address, store=arguments.store)
                if left_out := policy.take(SCHED):  # behind the imports, as the daemons do
                    log.info("keeper.scheduling", left_out=left_out)
                gc.freeze()  # what is here now stays for life: later collections need not look at it
                await stop.wait()
                await keeper.stop()
                running.cancel()
                listening.cancel()
        finally:
            await line.close()
            if disk.dirty:
                disk.save(disk.content())
            await client.close()
            log.info("keeper.stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
