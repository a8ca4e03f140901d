"""Asking the agents of a machine at once: the first good answer wins, and who hangs or is stopped costs
nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.cli import main
from controlplane.errors import FloorUnreachable
from controlplane.floor import folders
from controlplane.host import identity
from controlplane.http import unix

PATIENCE_S = 60.0
"""As a timeout of what must not be waited for."""
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
STARTING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater"

SERVER = """
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("listens", flush=True)
time.sleep(600)
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes | None], Path]]:
    """A socket whose server answers so, or takes the request and says nothing (None)."""
    listening: list[socket.socket] = []

    def answer(server: socket.socket, told: bytes | None) -> None:
        kept = []
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            kept.append(connection)
            if told is not None:
                connection.recv(1 << 16)
                with contextlib.suppress(BrokenPipeError):  # another answer was good enough
                    connection.sendall(told)
                connection.close()

    def start(told: bytes | None) -> Path:
        server = socket.socket(socket.AF_UNIX)
        path = tmp_path / f"{len(listening)}.sock"
        server.bind(str(path))
        server.listen()
        listening.append(server)
        threading.Thread(target=answer, args=(server, told), daemon=True).start()
        return path

    yield start
    for server in listening:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def good(answer: unix.Answer) -> bool:
    return answer.status < 400


def test_the_first_good_answer_ends_it_whoever_hangs(serve: Callable[[bytes | None], Path]) -> None:
    paths = [serve(None), serve(STARTING), serve(GOOD), serve(None)]
    told = unix.ask(paths, "GET", "/", timeout_s=PATIENCE_S, enough=good)
    answer = told[2]
    assert isinstance(answer, unix.Answer) and (answer.status, answer.body) == (200, b"hi")
    assert told[0] is None and told[3] is None


def test_without_a_good_one_each_says_what_it_says(
    serve: Callable[[bytes | None], Path], tmp_path: Path
) -> None:
    paths = [serve(STARTING), serve(b"rubbish"), tmp_path / "none.sock", tmp_path / ("x" * 200), serve(None)]
    told = unix.ask(paths, "GET", "/x", timeout_s=0.5, enough=good)
    assert isinstance(told[0], unix.Answer) and told[0].status == 503
    assert [str(each).rpartition(": ")[2] for each in told[1:]] == [
        "the connection closed without an answer",
        "No such file or directory",
        "AF_UNIX path too long",
        "no answer to GET /x within 0.5 s",
    ]


def test_a_server_that_is_stopped_is_not_waited_for_and_said_with_its_pid(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None and server.stdout.readline()
            os.kill(server.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, server.pid, os.WSTOPPED)
            began = time.monotonic()
            with pytest.raises(FloorUnreachable, match=rf"stopped \(kill -CONT {server.pid} "):
                unix.request(path, "GET", "/", timeout_s=PATIENCE_S)
            assert time.monotonic() - began < PATIENCE_S / 2
        finally:
            server.kill()


def test_one_that_takes_no_connection_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        waiting = []
        for _ in range(3):
            each = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            waiting.append(each)
            try:
                each.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(FloorUnreachable, match="takes no connection within"):
            unix.request(path, "GET", "/", timeout_s=PATIENCE_S)
        for each in waiting:
            each.close()


def test_a_long_request_and_a_long_answer_pass_in_parts(tmp_path: Path) -> None:
    path, sent = tmp_path / "a.sock", b"x" * (3 << 20)

    def serving(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            read = b""
            while not read.endswith(b"xend"):
                read += connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * (5 << 20))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        threading.Thread(target=serving, args=(server,), daemon=True).start()
        answer = unix.request(path, "POST", "/", sent + b"end", timeout_s=PATIENCE_S)
    assert len(answer.body) == 5 << 20


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "PROBE_AFTER_S", 0.05)
    monkeypatch.setattr(unix, "HUNG_S", 0.5)


def test_servers_that_take_requests_and_answer_none_are_given_up_long_before_the_timeout(
    serve: Callable[[bytes | None], Path], impatient: None
) -> None:
    began = time.monotonic()
    told = unix.ask([serve(None), serve(None)], "GET", "/x", timeout_s=PATIENCE_S, enough=good, live="/live")
    assert time.monotonic() - began < PATIENCE_S / 2
    for each in told:
        assert unix.hangs(each)
        assert f"it hangs (pid {os.getpid()} takes requests and has answered none for 0.5 s)" in str(each)


def test_a_server_that_is_only_busy_with_the_answer_is_waited_for(tmp_path: Path, impatient: None) -> None:
    path = tmp_path / "busy.sock"

    def serving(server: socket.socket) -> None:
        asked, _ = server.accept()
        asked.recv(1 << 16)
        probe, _ = server.accept()
        probe.recv(1 << 16)
        probe.sendall(GOOD)
        probe.close()
        time.sleep(2 * unix.HUNG_S)
        asked.sendall(GOOD)
        asked.close()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        threading.Thread(target=serving, args=(server,), daemon=True).start()
        assert unix.request(path, "GET", "/slow", timeout_s=PATIENCE_S, live="/live").body == b"hi"


def test_the_end_of_a_timeout_that_is_shorter_is_no_word_of_hanging(
    serve: Callable[[bytes | None], Path], impatient: None
) -> None:
    (told,) = unix.ask([serve(None)], "GET", "/x", timeout_s=0.3, live="/live")
    assert str(told).endswith("no answer to GET /x within 0.3 s") and not unix.hangs(told)


@pytest.mark.parametrize("verb", ["status", "events", "health", "history omsd", "failover omsd --reason y"])
def test_a_verb_whose_agents_all_hang_says_which_what_it_means_and_what_to_do(
    verb: str,
    serve: Callable[[bytes | None], Path],
    impatient: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    me = identity.identify("floord")
    assert me is not None
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for host in ("alpha", "beta"):
        serve(None).rename(run_dir / f"{host}.agent.sock")
    found = {"hosts": ["alpha", "beta"], "run_dir": str(run_dir), "floord": identity.to_plain(me)}
    site = folders.Folders(tmp_path / "site")
    site.create()
    site.floor_json.write_text(json.dumps(found))
    began = time.monotonic()
    code = main.run([*verb.split(), "--timeout", str(PATIENCE_S), "--site-dir", str(site.site_dir)])
    assert code == 3 and time.monotonic() - began < PATIENCE_S / 2
    said = capsys.readouterr().err
    pid = os.getpid()
    for wanted in (
        f"alpha: it hangs (pid {pid} ",
        f"beta: it hangs (pid {pid} ",
        "daemons trade on",
        "kill -KILL",
    ):
        assert wanted in said
    assert len(said.splitlines()) == 1
