"""Checks of ports, sockets, files and clocks against real counterparts that are well, hang or lie."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import zmq

from agents.checks import Target, grpc_health
from agents.checks.target import Result
from controlplane.model import checks
from tests.support.looks import HANG_S, look, ping, server, sync


@sync
async def test_tcp_passes_where_somebody_accepts(tmp_path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with server(hang) as port:
        for host in ("127.0.0.1", "localhost"):
            assert (await look(checks.TcpCheck(name="port", address=f"{host}:{port}"))).state == "passing"
    found = await look(checks.TcpCheck(name="port", address=f"127.0.0.1:{port}"))
    assert found.state == "critical"
    path = tmp_path / "s"
    served = await asyncio.start_unix_server(hang, path)
    assert (await look(checks.TcpCheck(name="port", address=f"unix:{path}"))).state == "passing"
    served.close()
    assert "No such file" in (await look(checks.TcpCheck(name="port", address=f"unix:{path}.gone"))).output


@sync
async def test_tcp_to_a_full_backlog_ends_at_its_deadline() -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        found = await look(checks.TcpCheck(name="port", address=address, timeout_s=HANG_S))
    assert found == Result("critical", f"no connection within {HANG_S:g} s")


@contextlib.contextmanager
def router(kind: int = zmq.ROUTER) -> Iterator[tuple[zmq.Socket[bytes], str]]:
    with zmq.Context() as context, context.socket(kind) as bound:
        bound.setsockopt(zmq.LINGER, 0)
        yield bound, f"tcp://127.0.0.1:{bound.bind_to_random_port('tcp://127.0.0.1')}"


async def answer_with(bound: zmq.Socket[bytes], frames: list[bytes]) -> list[bytes]:
    while True:
        with contextlib.suppress(zmq.Again):
            asked = bound.recv_multipart(zmq.DONTWAIT)
            bound.send_multipart([asked[0], *frames] if bound.type == zmq.ROUTER else frames)
            return asked
        await asyncio.sleep(0.005)


@sync
async def test_a_router_and_a_rep_that_answer_pass() -> None:
    with router() as (bound, endpoint):
        found, asked = await asyncio.gather(look(ping(endpoint)), answer_with(bound, [b"", b"PONG"]))
        assert found == Result("passing", f"{endpoint} answers: PONG") and asked[1:] == [b"", b"PING"]
        found, _ = await asyncio.gather(look(ping(endpoint, expect="PONG")), answer_with(bound, [b"", b"no"]))
        assert found.state == "critical" and 'without "PONG"' in found.output
    with router(zmq.REP) as (bound, endpoint):
        found, asked = await asyncio.gather(
            look(ping(endpoint, send="{host}?")), answer_with(bound, [b"yes"])
        )
        assert found.state == "passing" and asked == [b"alpha?"]


@sync
async def test_a_router_that_never_answers_ends_at_the_deadline_and_its_late_answer_counts_for_nobody() -> (
    None
):
    with router() as (bound, endpoint):
        assert await look(ping(endpoint, timeout_s=HANG_S)) == Result(
            "critical", f"no answer within {HANG_S:g} s"
        )
        late = bound.recv_multipart()
        bound.send_multipart([late[0], b"", b"late"])
        assert (await look(ping(endpoint, timeout_s=HANG_S))).state == "critical"


@sync
async def test_an_endpoint_by_its_name_is_the_one_that_the_instance_reports() -> None:
    with router() as (bound, endpoint):
        target = Target("web", "web-alpha-1", "alpha", endpoints={"requests": endpoint})
        found, _ = await asyncio.gather(
            look(ping("requests"), target=target), answer_with(bound, [b"", b"ok"])
        )
        assert found.state == "passing"
    assert 'no endpoint "orders"' in (await look(ping("orders"), target=target)).output
    assert (await look(ping("ipc:///" + "x" * 200))).state == "critical"


@contextlib.asynccontextmanager
async def grpc_server(answer: bytes | None) -> AsyncIterator[str]:
    """None: it never answers."""

    async def check(request: bytes, context: Any) -> bytes:
        if answer is None:
            await asyncio.sleep(3600)
        if request == grpc_health.request("nobody"):
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return answer or b""

    handler = grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    )
    served = grpc.aio.server()
    served.add_generic_rpc_handlers((handler,))
    port = served.add_insecure_port("127.0.0.1:0")
    await served.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await served.stop(0)


@sync
async def test_a_grpc_server_says_whether_it_serves() -> None:
    for answer, state, said in (
        (b"\x08\x01", "passing", "SERVING"),
        (b"\x08\x02", "critical", "NOT_SERVING"),
        (b"", "critical", "UNKNOWN"),
        (b"\xff\xff\xff", "critical", "no HealthCheckResponse"),
        (b"\x08\x63", "critical", "no HealthCheckResponse"),
    ):
        async with grpc_server(answer) as address:
            found = await look(checks.GrpcCheck(name="rpc", address=address))
            assert found.state == state and said in found.output
    async with grpc_server(b"\x08\x01") as address:
        found = await look(checks.GrpcCheck(name="rpc", address=address, grpc_service="nobody"))
        assert found.state == "critical" and "NOT_FOUND: unknown service" in found.output
    found = await look(checks.GrpcCheck(name="rpc", address=address))
    assert found.state == "critical" and "UNAVAILABLE" in found.output
    async with grpc_server(None) as address:
        found = await look(checks.GrpcCheck(name="rpc", address=address, timeout_s=HANG_S))
        assert found.state == "critical"


def test_the_request_is_the_protos_own_bytes() -> None:
    from google.protobuf import wrappers_pb2  # StringValue {string value = 1} is the same message

    for name in ("", "a.B", "x" * 127, "x" * 128, "x" * 20_000, "ü"):
        assert grpc_health.request(name) == wrappers_pb2.StringValue(value=name).SerializeToString()


@sync
async def test_a_file_is_judged_by_its_age_and_one_that_is_missing_is_critical(tmp_path: Path) -> None:
    path = tmp_path / "web-alpha-1.csv"
    check = checks.FileAgeCheck(name="f", path=str(tmp_path / "{instance}.csv"), warning_s=60, critical_s=600)
    assert "No such file" in (await look(check)).output
    path.touch()
    for age_s, state in (
        (0, "passing"),
        (100, "warning"),
        (1000, "critical"),
        (-30, "passing"),
        (-900, "critical"),
    ):
        os.utime(path, (0, time.time() - age_s))
        assert (await look(check)).state == state, age_s


async def ntp_server(answer: Callable[[bytes], bytes]) -> tuple[asyncio.DatagramTransport, int]:
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.transport.sendto(answer(data), addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Server, ("127.0.0.1", 0))
    return transport, transport.get_extra_info("sockname")[1]


def ntp_answer(ahead_s: float, stratum: int = 2, nonce: bytes | None = None) -> Callable[[bytes], bytes]:
    def answer(request: bytes) -> bytes:
        now_s = time.time() + 2_208_988_800 + ahead_s
        stamp = struct.pack("!II", int(now_s), int((now_s % 1) * 2**32))
        origin = request[40:48] if nonce is None else nonce
        return struct.pack("!BBbb", 0x24, stratum, 6, -20) + bytes(12) + stamp + origin + stamp + stamp

    return answer


@sync
async def test_a_clock_is_judged_by_an_ntp_server() -> None:
    for answer, state, said in (
        (ntp_answer(0.0), "passing", "ms by ntp://"),
        (ntp_answer(0.3), "warning", "ms by ntp://"),
        (ntp_answer(-5.0), "critical", "wanted within 1000 ms"),
        (ntp_answer(0.0, stratum=0), "critical", "not synchronised"),
        (lambda request: b"rubbish", "critical", "no answer within"),
        (ntp_answer(0.0, nonce=bytes(8)), "critical", "no answer within"),
    ):
        transport, port = await ntp_server(answer)
        check = checks.ClockCheck(
            name="clock", source=f"ntp://127.0.0.1:{port}", warning_ms=200, critical_ms=1000, timeout_s=1
        )
        found = await look(check)
        transport.close()
        assert found.state == state and said in found.output, found


@sync
async def test_the_kernel_is_asked_for_its_own_estimate() -> None:
    found = await look(checks.ClockCheck(name="clock", critical_ms=3_600_000))
    assert "by the kernel" in found.output
    assert found.state == ("critical" if "not synchronised" in found.output else "passing")
