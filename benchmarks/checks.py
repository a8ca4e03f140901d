"""2,000 health checks a minute on one agent's board (60 % HTTP, 20 TCP, 10 ZeroMQ, 10 script), beside the
same looks by bare asyncio without schedule, state or limits (the floor), in turn.

    python benchmarks/checks.py [--seconds 30] [--rounds 3] [--hanging 0]

What is counted is the processor time of the process and of its children, as a share of one core; the targets
are other processes. The ratio to the floor comes first: it holds on a busy machine too. `--hanging N` adds N
checks whose target accepts and never answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

A_MINUTE = 2000
INTERVAL_S = 10.0
SHARES = {"http": 0.6, "tcp": 0.2, "zeromq": 0.1, "script": 0.1}
COUNTS = {kind: round(A_MINUTE / 60 * INTERVAL_S * share) for kind, share in SHARES.items()}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK"


# --- the targets, in a process of their own -----------------------------------------------------------------


def serve() -> None:
    asyncio.run(_serve())


async def _serve() -> None:
    import zmq
    import zmq.asyncio

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            await writer.drain()
        writer.close()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    servers = [await asyncio.start_server(each, "127.0.0.1", 0, backlog=1024) for each in (answer, hang)]
    router = zmq.asyncio.Context().socket(zmq.ROUTER)
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    print(*ports, router.bind_to_random_port("tcp://127.0.0.1"), flush=True)
    while True:
        identity, empty, *_ = await router.recv_multipart()
        await router.send_multipart([identity, empty, b"PONG"])


# --- what is measured ---------------------------------------------------------------------------------------


def measure(kind: str, ports: Sequence[int], folder: Path, seconds: float, hanging: int) -> None:
    """In a process of its own; prints processor seconds and looks."""
    asyncio.run({"ours": _ours, "bare": _bare}[kind](ports, folder, seconds, hanging))


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


async def _ours(ports: Sequence[int], folder: Path, seconds: float, hanging: int) -> None:
    from agents.checks import Board, Subject, Target
    from controlplane.model import checks

    http, silent, zeromq = ports
    terms: dict[str, Any] = {"interval_s": INTERVAL_S}
    own: list[checks.Check] = [
        *(
            checks.HttpCheck(name=f"h{n}", url=f"http://127.0.0.1:{http}/", **terms)
            for n in range(COUNTS["http"])
        ),
        *(checks.TcpCheck(name=f"t{n}", address=f"127.0.0.1:{http}", **terms) for n in range(COUNTS["tcp"])),
        *(
            checks.ZmqCheck(name=f"z{n}", endpoint=f"tcp://127.0.0.1:{zeromq}", **terms)
            for n in range(COUNTS["zeromq"])
        ),
        *(checks.ScriptCheck(name=f"s{n}", program="ok.sh", **terms) for n in range(COUNTS["script"])),
        *(checks.HttpCheck(name=f"x{n}", url=f"http://127.0.0.1:{silent}/", **terms) for n in range(hanging)),
    ]
    board = Board(
        folder,
        report=lambda kind, **fields: None,
        changed=lambda: None,
        wall_ns=time.time_ns,
        known=lambda name: None,
        service=lambda name: ("passing", ""),
    )
    looks: dict[str, int] = {}
    late: list[float] = []
    taken = board.prober._taken

    def count(job: Any, result: Any, took_s: float) -> None:
        looks[result.state] = looks.get(result.state, 0) + 1
        taken(job, result, took_s)

    board.prober._taken = count
    begin = board.prober._begin

    def begun(job: Any) -> None:
        late.append(time.monotonic() - job.due_mono_s)
        begin(job)

    board.prober._begin = begun  # type: ignore[method-assign]
    board.want([Subject(Target("svc", "svc-alpha-1", "alpha"), tuple(own), ours=False)])
    running = asyncio.create_task(board.run())
    await asyncio.sleep(3)  # the first looks come within 2 s: they are no rhythm
    looks.clear()
    late.clear()
    began_s, cpu_s = time.monotonic(), _cpu_s()
    await asyncio.sleep(seconds)
    used_s, passed_s = _cpu_s() - cpu_s, time.monotonic() - began_s
    passing, rest = looks.get("passing", 0), sum(looks.values()) - looks.get("passing", 0)
    print(used_s, passed_s, passing, rest, statistics.quantiles(late, n=100)[98], flush=True)
    running.cancel()
    await asyncio.wait({running})


async def _bare(ports: Sequence[int], folder: Path, seconds: float, hanging: int) -> None:
    import zmq
    import zmq.asyncio

    http, _, zeromq = ports
    context = zmq.asyncio.Context()

    async def get() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", http)
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()

    async def connect() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", http)
        writer.close()

    async def ping() -> None:
        with context.socket(zmq.REQ) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f"tcp://127.0.0.1:{zeromq}")
            await socket.send(b"PING")
            await socket.recv()

    async def script() -> None:
        child = await asyncio.create_subprocess_exec(str(folder / "ok.sh"), stdout=asyncio.subprocess.PIPE)
        await child.communicate()
        assert child.returncode == 0

    looks = {"http": get, "tcp": connect, "zeromq": ping, "script": script}
    row = [look for kind, look in looks.items() for _ in range(COUNTS[kind])]
    row = [row[n * 7919 % len(row)] for n in range(len(row))]  # mixed, as a schedule mixes them
    gap_s, done = INTERVAL_S / len(row), 0
    began_s, cpu_s = time.monotonic(), _cpu_s()
    tasks: set[asyncio.Task[None]] = set()
    while (passed_s := time.monotonic() - began_s) < seconds:
        task = asyncio.create_task(row[done % len(row)]())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        done += 1
        await asyncio.sleep(max(0.0, began_s + done * gap_s - time.monotonic()))
    await asyncio.gather(*tasks)
    print(_cpu_s() - cpu_s, passed_s, done, 0, 0.0, flush=True)


# --- the rounds ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def targets() -> Iterator[list[int]]:
    serving = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert serving.stdout is not None
        yield [int(port) for port in serving.stdout.readline().split()]
    finally:
        serving.kill()
        serving.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hanging", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve()
    elif given.measure:
        kind, *ports, folder, hanging = given.measure
        measure(kind, [int(port) for port in ports], Path(folder), given.seconds, int(hanging))
    else:
        compare(given.seconds, given.rounds, given.hanging)


def compare(seconds: float, rounds: int, hanging: int) -> None:
    shares: dict[str, list[float]] = {"ours": [], "bare": []}
    late: list[float] = []
    with targets() as ports, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "ok.sh"
        script.write_text("#!/bin/sh\necho OK\n")
        script.chmod(0o755)
        for _ in range(rounds):
            for kind, found in shares.items():
                words = [sys.executable, __file__, "--seconds", str(seconds), "--measure", kind]
                words += [*map(str, ports), folder, str(hanging)]
                answer = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
                used_s, passed_s, passing, rest, p99_s = map(float, answer)
                found.append(used_s / passed_s / (passing / passed_s * 60) * A_MINUTE)
                print(
                    f"  {kind}: {used_s / passed_s:.2%} of a core, {passing / passed_s * 60:,.0f} passing "
                    f"looks a minute, {rest:.0f} others",
                    file=sys.stderr,
                )
                if kind == "ours":
                    late.append(p99_s)
    ours, bare = (statistics.median(shares[kind]) for kind in ("ours", "bare"))
    print(f"ratio to bare asyncio: {ours / bare:.2f}")
    print(f"ours: {ours:.2%} of a core for {A_MINUTE:,} looks a minute, children included (bare: {bare:.2%})")
    print(f"late against the schedule, p99: {statistics.median(late) * 1e3:.1f} ms; {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
