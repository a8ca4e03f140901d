"""Every kind of check against a real counterpart: one that is well, and others that hang, flood or die."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
import zmq

from agents.checks import Target, grpc_health
from agents.checks.prober import Job, Prober
from agents.checks.target import Result
from controlplane.model import checks

TARGET = Target("web", "web-alpha-1", "alpha", endpoints={"requests": "ipc:///nowhere"})
HANG_S = 0.3
"""Time limit of what hangs on purpose."""
SOON_S = 20.0


def sync(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "checks"
    found.mkdir(mode=0o755)
    return found


async def look(check: checks.Check, folder: Path = Path("/nonexistent"), target: Target = TARGET) -> Result:
    """One look, as the prober takes it, its deadline included."""
    prober = Prober(folder, lambda job: None, lambda job, result, took_s: None)
    try:
        return (await prober._result(Job(f"web-alpha-1/{check.name}", check, lambda: target), target))[0]
    finally:
        await prober._end_all()


# --- http ---------------------------------------------------------------------------------------------------

Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(answer: Answers | bytes, close: bool = True) -> AsyncIterator[int]:
    """A TCP server; bytes: what it says to whatever it is asked."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if callable(answer):
                await answer(reader, writer)
            else:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
                await writer.drain()
                if not close:
                    await asyncio.sleep(3600)
            writer.close()

    served = await asyncio.start_server(say, "127.0.0.1", 0)
    try:
        yield served.sockets[0].getsockname()[1]
    finally:
        served.close()


def http(port: int, **fields: Any) -> checks.HttpCheck:
    given: dict[str, Any] = {
        "name": "web",
        "url": f"http://127.0.0.1:{port}/health",
        "timeout_s": 5.0,
    } | fields
    return checks.HttpCheck(**given)


async def answered(answer: Answers | bytes, close: bool = True, **fields: Any) -> Result:
    async with server(answer, close) as port:
        return await look(http(port, **fields))


@sync
async def test_an_http_answer_passes_by_its_status_and_what_must_be_in_its_body() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    assert await answered(ok) == Result("passing", "200 OK: hello")
    assert await answered(ok, close=False) == Result("passing", "200 OK: hello"), (
        "the length says where it ends"
    )
    assert (await answered(ok, contains="hell")).state == "passing"
    assert (await answered(ok, contains="bye")).output == '200 OK, without "bye" in the body: hello'
    assert await answered(b"HTTP/1.1 204 No Content\r\n\r\n", close=False) == Result(
        "passing", "204 No Content"
    )
    assert (await answered(b"HTTP/1.1 429 Slow\r\n\r\n")).state == "warning"
    assert (await answered(b"HTTP/1.1 503 Away\r\n\r\nwhy")).output == "503 Away: why"
    assert (await answered(b"HTTP/1.1 503 Away\r\n\r\n", warning_statuses=(503,))).state == "warning"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    assert await answered(head, close=False, method="HEAD") == Result("passing", "200 OK")
    interim = b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" + ok
    assert (await answered(interim)).state == "passing"


@sync
async def test_a_chunked_body_is_read_to_its_end() -> None:
    parts = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n"
    assert await answered(parts, close=False, contains="hello") == Result("passing", "200 OK: hello")


@sync
async def test_the_request_has_what_was_configured_and_the_placeholders_filled_in() -> None:
    seen = b""

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

    async with server(note) as port:
        url = f"http://localhost:{port}/of/{{instance}}?h={{host}}"
        assert (await look(http(port, url=url, headers={"X-Who": "{service}"}))).state == "passing"
    lines = seen.decode().splitlines()
    assert lines[0] == "GET /of/web-alpha-1?h=alpha HTTP/1.1"
    assert f"Host: localhost:{port}" in lines and "X-Who: web" in lines and "Connection: close" in lines


@sync
async def test_a_redirect_is_not_followed() -> None:
    followed = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal followed
        followed += 1

    async with server(count) as elsewhere:
        answer = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{elsewhere}/\r\n\r\n".encode()
        found = await answered(answer)
    assert found.state == "critical" and "not followed" in found.output and str(elsewhere) in found.output
    assert not followed


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"\x00\xff\xfe rubbish \r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP/1.1"),
        (b"HTTP/2 200\r\n\r\n", "the answer is not HTTP/1.1"),
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nA:", "closed without an answer"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 20, "more than 8 answers 100"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a chunk of the body has no length"),
    ],
)
@sync
async def test_rubbish_instead_of_an_answer_is_critical_and_named(answer: bytes, said: str) -> None:
    found = await answered(answer)
    assert found.state == "critical" and said in found.output


@sync
async def test_a_head_without_end_is_refused_and_a_body_without_end_is_cut() -> None:
    async def headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
            await writer.drain()

    async def body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    found = await answered(headers)
    assert found.state == "critical" and "does not end within" in found.output
    found = await answered(body)
    assert found.state == "passing" and len(found.output) < 4200


@sync
async def test_one_that_accepts_and_says_nothing_or_a_byte_a_time_ends_at_its_deadline() -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    for hanging in (nothing, slowly):
        began_s = time.monotonic()
        assert await answered(hanging, timeout_s=HANG_S) == Result(
            "critical", f"no answer within {HANG_S:g} s"
        )
        assert time.monotonic() - began_s < SOON_S


@sync
async def test_nobody_at_the_port_and_a_name_that_is_none_are_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = await look(http(port))
    assert found.state == "critical" and "refused" in found.output
    found = await look(checks.HttpCheck(name="web", url="http://nowhere.invalid/"))
    assert found.state == "critical" and "nowhere.invalid" in found.output


@sync
async def test_https_is_believed_by_its_certificate(tmp_path: Path) -> None:
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
            await writer.drain()
        writer.close()

    served = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{served.sockets[0].getsockname()[1]}/"
    assert (await look(http(0, url=url, ca_file=str(tmp_path / "ca.pem")))).output == "200 OK: OK"
    found = await look(http(0, url=url))
    assert found.state == "critical" and "certificate verify failed" in found.output
    found = await look(http(0, url=url.replace("localhost", "127.0.0.1"), ca_file=str(tmp_path / "ca.pem")))
    assert found.state == "critical" and "mismatch" in found.output, "another name than its own"
    assert "No such file" in (await look(http(0, url=url, ca_file="/nowhere.pem"))).output
    served.close()


@sync
async def test_a_health_port_that_the_service_does_not_have_is_said() -> None:
    found = await look(checks.HttpCheck(name="web", url="http://{address}:{health_port}/health"))
    assert found.state == "critical" and "no port" in found.output


# --- tcp, zeromq, grpc --------------------------------------------------------------------------------------


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


def ping(endpoint: str, **fields: Any) -> checks.ZmqCheck:
    return checks.ZmqCheck(name="ping", endpoint=endpoint, **{"timeout_s": 5.0, **fields})


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


# --- files and clocks ---------------------------------------------------------------------------------------


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


# --- scripts ------------------------------------------------------------------------------------------------


def script(folder: Path, text: str, **fields: Any) -> checks.ScriptCheck:
    path = folder / "check.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return checks.ScriptCheck(name="script", program="check.sh", **{"timeout_s": 10.0, **fields})


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def gone(pid: int) -> bool:
    deadline_s = time.monotonic() + SOON_S
    while runs(pid) and time.monotonic() < deadline_s:  # noqa: ASYNC110  processes set no event
        await asyncio.sleep(0.01)
    return not runs(pid)


@sync
async def test_a_script_says_how_it_is_by_its_exit_status(folder: Path) -> None:
    assert await look(script(folder, "echo fine"), folder) == Result("passing", "fine")
    assert await look(script(folder, "echo soon >&2; exit 1"), folder) == Result("warning", "soon")
    assert await look(script(folder, "exit 2"), folder) == Result("critical", "check.sh ended with status 2")
    assert (await look(script(folder, "exit 99"), folder)).state == "critical"
    found = await look(script(folder, "echo dying; kill -SEGV $$"), folder)
    assert found == Result("critical", "check.sh was killed by SIGSEGV: dying")


@sync
async def test_arguments_are_taken_as_they_stand_and_placeholders_filled_in(folder: Path) -> None:
    words = ("$(id)", "a b", "*", "", "{instance}", "; exit 2", "-n")
    found = await look(script(folder, 'for word; do echo "<$word>"; done', arguments=words), folder)
    assert found.output == "<$(id)>\n<a b>\n<*>\n<>\n<web-alpha-1>\n<; exit 2>\n<-n>"


@sync
async def test_a_script_has_no_input_no_descriptor_and_little_environment_of_its_agent(folder: Path) -> None:
    with (folder / "secret").open("w") as open_file:
        os.set_inheritable(open_file.fileno(), True)
        text = "cat; ls /proc/self/fd | wc -l; env | cut -d= -f1 | sort | tr '\\n' ' '; ulimit -c; ulimit -n"
        found = await look(script(folder, text), folder)
    descriptors, rest = found.output.split("\n", 1)
    assert int(descriptors) <= 4, "0, 1, 2 and the folder that ls reads"
    names, _, limits = rest.rpartition(" ")
    core, files = limits.split()
    assert set(names.split()) <= {
        *(
            "HFT_CHECK",
            "HFT_CHECK_RUN",
            "HFT_FLOOR",
            "HFT_HOST",
            "HFT_INSTANCE",
            "HFT_SERVICE",
            "LANG",
            "PATH",
            "PWD",
            "OLDPWD",
            "_",
            "SHLVL",
        )
    }
    assert (core, files) == ("0", "256")


@sync
async def test_a_script_that_hangs_and_ignores_sigterm_is_killed_with_all_that_it_forked(
    folder: Path,
) -> None:
    text = "trap '' TERM INT HUP; sleep 3600 & echo $! > pid; sleep 3600 & echo $! >> pid; wait".replace(
        "pid", str(folder / "pids")
    )
    found = await look(script(folder, text, timeout_s=1.0), folder)
    assert found == Result("critical", "killed, as it had not ended within 1 s")
    for pid in (folder / "pids").read_text().split():
        assert await gone(int(pid)), pid


@sync
async def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_check(folder: Path) -> None:
    text = f"(sleep 3600) & echo $! > {folder}/pid; echo done"
    began_s = time.monotonic()
    found = await look(script(folder, text), folder)
    assert found == Result("passing", "done") and time.monotonic() - began_s < 9
    assert await gone(int((folder / "pid").read_text()))


@sync
async def test_what_a_script_leaves_in_its_group_ends_with_it_though_it_holds_nothing(folder: Path) -> None:
    text = f"sleep 3600 > /dev/null 2>&1 & echo $! > {folder}/pid"
    shown = "read a b c d group session rest < /proc/$$/stat; echo $$ $group $session"
    found = await look(script(folder, f"{text}; {shown}"), folder)
    assert len(set(found.output.split())) == 1, "a session and a group of its own"
    assert await gone(int((folder / "pid").read_text()))


@sync
async def test_a_grandchild_in_a_session_of_its_own_does_not_hold_the_check_and_is_ended(
    folder: Path,
) -> None:
    begun = f"setsid sh -c 'echo $$ > {folder}/pid; exec sleep 3600' &"
    for more, timeout_s, said in (
        ("echo done", 10.0, "done"),
        ("sleep 3600", 1.0, "killed, as it had not ended within 1 s"),
    ):
        text = f"{begun} while ! [ -s {folder}/pid ]; do :; done; {more}"
        found = await look(script(folder, text, timeout_s=timeout_s), folder)
        assert found.output == said
        assert await gone(int((folder / "pid").read_text())), "found by its environment"
        (folder / "pid").unlink()


@sync
async def test_what_an_agent_before_this_one_left_running_is_ended_and_nobody_elses(folder: Path) -> None:
    def left_by(owner: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/bin/sleep", "3600"], env={"HFT_CHECK_OF": owner})

    ours, theirs = left_by("alpha of /site"), left_by("alpha of /site2")
    prober = Prober(folder, lambda job: None, lambda job, result, took_s: None, "alpha of /site")
    running = asyncio.create_task(prober.run())
    try:
        assert await gone(ours.pid)
        assert runs(theirs.pid)
    finally:
        running.cancel()
        await asyncio.wait({running})
        for each in (ours, theirs):
            each.kill()
            each.wait()


@sync
async def test_output_is_cut_and_a_flood_is_killed(folder: Path) -> None:
    found = await look(script(folder, "head -c 100000 /dev/zero | tr '\\0' x"), folder)
    assert found.state == "passing" and found.output == "x" * 4096 + " ... (cut)"
    began_s = time.monotonic()
    found = await look(script(folder, "yes"), folder)
    assert found.state == "critical" and "wrote more than 1048576 bytes, killed" in found.output
    assert time.monotonic() - began_s < 9, "long before its time limit"


@sync
async def test_garbage_is_shown_as_text(folder: Path) -> None:
    found = await look(script(folder, "printf '\\377\\376\\000\\033[31mred'"), folder)
    assert found.state == "passing" and "red" in found.output and "\ufffd" in found.output


@sync
async def test_a_script_runs_within_its_limits(folder: Path) -> None:
    text = f"exec {sys.executable} -c 'print(len(bytearray(300 << 20)))'"
    found = await look(script(folder, text, memory_mb=128), folder)
    assert found.state != "passing" and "MemoryError" in found.output
    assert (await look(script(folder, text, memory_mb=1024), folder)).state == "passing"
    found = await look(script(folder, f"head -c 20000000 /dev/zero > {folder}/big; exit 2"), folder)
    assert (folder / "big").stat().st_size <= 10 << 20


def allow(path: Path, mode: int) -> None:
    path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a check as another user")
@sync
async def test_a_script_runs_as_the_user_that_is_wanted(folder: Path, tmp_path_factory: Any) -> None:
    reachable = folder
    for parent in [folder, *folder.parents[:-2]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    found = await look(script(reachable, "id -un; id -G | wc -w; cat /etc/shadow", user="nobody"), reachable)
    assert found.output.startswith("nobody\n1\n") and "denied" in found.output
    assert 'no user "ghost"' in (await look(script(reachable, "true", user="ghost"), reachable)).output


@sync
async def test_a_program_that_others_may_write_or_that_is_not_there_is_not_run(folder: Path) -> None:
    check = script(folder, f"touch {folder}/ran")
    (folder / "check.sh").chmod(0o777)
    assert "may be written by others (mode 0777): not run" in (await look(check, folder)).output
    (folder / "check.sh").chmod(0o755)
    allow(folder, 0o777)
    assert "may be written by others" in (await look(check, folder)).output
    allow(folder, 0o755)
    if os.geteuid() == 0:
        os.chown(folder / "check.sh", 65534, 65534)
        assert "belongs to user 65534" in (await look(check, folder)).output
        os.chown(folder / "check.sh", 0, 0)
    assert not (folder / "ran").exists()
    (folder / "check.sh").chmod(0o644)
    assert "denied" in (await look(check, folder)).output.lower()
    (folder / "check.sh").unlink()
    assert "No such file" in (await look(check, folder)).output


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def zombies() -> list[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in children if not runs(int(pid))]


@sync
async def test_looks_leave_no_descriptor_and_no_process_behind(folder: Path) -> None:
    hang = script(folder, "sleep 3600", timeout_s=HANG_S)
    async with server(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        prober = Prober(folder, lambda job: None, lambda job, result, took_s: None)
        counts = []
        for _ in range(6):
            for number, check in enumerate(
                (http(port), http(1), hang, ping("tcp://127.0.0.1:1", timeout_s=HANG_S))
            ):
                await prober._result(Job(f"web-alpha-1/{number}", check, lambda: TARGET), TARGET)
            await asyncio.sleep(0.2)
            counts.append(descriptors())
        await prober._end_all()
    assert counts[-1] <= counts[1], counts
    assert not zombies()
