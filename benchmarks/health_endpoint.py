"""GET /health over one kept connection, beside a bare asyncio answer to the same bytes (the floor), in turn.
The ratio of processor time comes first: it holds on a busy machine too.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

REQUESTS = 3000
ROUNDS = 3
REQUEST = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nUser-Agent: benchmark\r\n\r\n"


def serve(kind: str) -> None:
    """In a process of its own; prints the port."""
    asyncio.run(_ours() if kind == "ours" else _bare())


async def _ours() -> None:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from controlplane.http import answers
    from controlplane.http.server import Server

    async def health(request: Request) -> Response:
        return answers.verdict(True)

    app = answers.application([Route(path, health) for path in ("/live", "/ready", "/health")])
    print(await Server(app, report=print).listen_tcp("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


async def _bare() -> None:
    class Answer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")

    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(kind: str) -> tuple[float, list[float]]:
    """Processor time of the server for one request in µs, and the latencies in µs, sorted."""
    process = subprocess.Popen([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began_s, latencies_us = processor_s(process.pid), []
            for _ in range(REQUESTS):
                sent_ns = time.perf_counter_ns()
                client.sendall(REQUEST)
                received = b""
                while not received.endswith(b"\r\n\r\nOK"):
                    received += client.recv(65536)
                latencies_us.append((time.perf_counter_ns() - sent_ns) / 1e3)
        return (processor_s(process.pid) - began_s) / REQUESTS * 1e6, sorted(latencies_us)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    rounds = [(measure("ours"), measure("bare")) for _ in range(ROUNDS)]
    ratio = statistics.median(ours[0] / bare[0] for ours, bare in rounds)
    print(f"GET /health: {ratio:.1f} times the processor time of a bare asyncio answer ({ROUNDS} rounds)")
    for name, found in (("ours", [ours for ours, _ in rounds]), ("bare", [bare for _, bare in rounds])):
        processor_us = statistics.median(each[0] for each in found)
        p50_us, p99_us = (
            statistics.median(each[1][int(len(each[1]) * part)] for each in found) for part in (0.5, 0.99)
        )
        seconds = statistics.median(sum(each[1]) / 1e6 for each in found)
        print(
            f"  {name}: {processor_us:.0f} us of processor time a request, p50 {p50_us:.0f} us, "
            f"p99 {p99_us:.0f} us, {REQUESTS / seconds:.0f} requests/s"
        )


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) > 1 else main()
