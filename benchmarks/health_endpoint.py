"""GET /health over one kept connection, beside a bare asyncio answer to the same bytes (the floor), in turn.
The ratios of processor time come first: they hold on a busy machine too.

    python benchmarks/health_endpoint.py [--path /metrics] [--aiohttp PYTHON] [--before FOLDER]

aiohttp, which agent and controller used once, is no dependency of this project. It is measured too when this
Python has it, or the Python of another virtual environment that --aiohttp names. --before names another
checkout of this project, whose server is measured in the same rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

REQUESTS = 3000
ROUNDS = 5
REQUEST = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: benchmark\r\n\r\n"
VERDICTS = ("/live", "/ready", "/health")
PAGE = b"# TYPE hft_up gauge\nhft_up 1\n" * 200
"""As large as the metrics of a few instances; what it costs to make them is not the server's."""


def serve(kind: str) -> None:
    """In a process of its own; prints the port."""
    asyncio.run({"ours": _ours, "aiohttp": _aiohttp, "bare": _bare}[kind]())


async def _ours() -> None:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from controlplane.http import answers
    from controlplane.http.server import Server

    async def health(request: Request) -> Response:
        return answers.verdict(True)

    async def metrics(request: Request) -> Response:
        return answers.page(PAGE, "text/plain; version=0.0.4")

    app = answers.application([*(Route(path, health) for path in VERDICTS), Route("/metrics", metrics)])
    print(await Server(app, report=print).listen_tcp("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


async def _aiohttp() -> None:
    """As agent and controller had it: no access log, the errors' middleware left out."""
    from aiohttp import web

    async def health(request: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=PAGE, headers={"Content-Type": "text/plain; version=0.0.4"})

    app = web.Application()
    for path in VERDICTS:
        app.router.add_get(path, health)
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def _bare() -> None:
    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            body = PAGE if data.startswith(b"GET /metrics ") else b"OK"
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Found:
    """Of one server in one round."""

    start_us: float
    """Processor time until it listens."""
    processor_us: float
    """Of the server, for one request."""
    latencies_us: Sequence[float]
    """Sorted."""
    memory_mb: float
    """Resident, after the last request."""


def processor_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1e6


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(command: Sequence[str], path: str) -> Found:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request, body = REQUEST.format(path).encode(), PAGE if path == "/metrics" else b"OK"
            began_us, latencies_us = processor_us(process.pid), []
            for _ in range(REQUESTS):
                sent_ns = time.perf_counter_ns()
                client.sendall(request)
                received = b""
                while not received.endswith(b"\r\n\r\n" + body):
                    received += client.recv(65536)
                latencies_us.append((time.perf_counter_ns() - sent_ns) / 1e3)
        took_us = processor_us(process.pid) - began_us
        return Found(began_us, took_us / REQUESTS, sorted(latencies_us), memory_mb(process.pid))
    finally:
        process.kill()
        process.wait()


def commands(given: argparse.Namespace) -> dict[str, list[str]]:
    found = {"ours": [sys.executable, __file__, "ours"], "bare": [sys.executable, __file__, "bare"]}
    if given.before:
        found["before"] = [sys.executable, str(Path(given.before, "benchmarks", Path(__file__).name)), "ours"]
    if given.aiohttp or importlib.util.find_spec("aiohttp"):
        found["aiohttp"] = [given.aiohttp or sys.executable, __file__, "aiohttp"]
    return found


def main(given: argparse.Namespace) -> None:
    servers = commands(given)
    rounds = [
        {name: measure(command, given.path) for name, command in servers.items()} for _ in range(ROUNDS)
    ]
    for name in servers:
        if name != "ours":
            ratio = statistics.median(each["ours"].processor_us / each[name].processor_us for each in rounds)
            print(f"GET {given.path}: {ratio:.2f} times the processor time of {name} ({ROUNDS} rounds)")
    for name in servers:
        found = [each[name] for each in rounds]
        p50_us, p99_us = (
            statistics.median(each.latencies_us[int(REQUESTS * part)] for each in found)
            for part in (0.5, 0.99)
        )
        seconds = statistics.median(sum(each.latencies_us) / 1e6 for each in found)
        print(
            f"  {name}: {statistics.median(each.processor_us for each in found):.0f} us of processor time "
            f"a request, p50 {p50_us:.0f} us, p99 {p99_us:.0f} us, {REQUESTS / seconds:.0f} requests/s; "
            f"starts in {statistics.median(each.start_us for each in found) / 1e3:.0f} ms of processor time, "
            f"{statistics.median(each.memory_mb for each in found):.1f} MB"
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Processor time of one GET over a kept connection.")
    parser.add_argument("--path", default="/health", choices=[*VERDICTS, "/metrics"])
    parser.add_argument("--aiohttp", metavar="PYTHON", help="the Python that has aiohttp")
    parser.add_argument("--before", metavar="FOLDER", help="another checkout of this project")
    return parser.parse_args()


if __name__ == "__main__":
    serve(sys.argv[1]) if sys.argv[1:] in (["ours"], ["aiohttp"], ["bare"]) else main(parsed())
