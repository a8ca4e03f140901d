"""Fault: somebody sends noise to every socket of a running floor.

Bytes, oversized and wrongly shaped messages, messages that are nearly right, and structures deep enough to
exhaust a decoder's stack: all counted and dropped. Nothing dies, nobody is restarted, no role changes, and
trading goes on. Unix sockets get bytes that are not even ZeroMQ or HTTP.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from controlplane.errors import InvalidInput
from controlplane.floor import folders
from controlplane.http import unix
from hftd.wire import codec, control, orders, requests
from tests.support import floors

pytestmark = pytest.mark.timeout(180)
HOSTS = ("alpha", "beta")
ROUTERS = ("snapshots", "orders", "requests", "intents", "replica", "executions", "events")
"""Names of the sockets that somebody may send to; the others are PUB and PUSH, which read nothing but a
handshake."""
DEEP = 100_000


def nearly(kind: type[msgspec.Struct], *rest: bytes) -> bytes:
    """A message with the right tag and head, and then this."""
    tag = kind.__struct_config__.tag
    head = b"".join(map(msgspec.msgpack.encode, (tag, codec.VERSION, 1, 0, "noise", None)))
    return b"\xdc" + (6 + len(rest)).to_bytes(2, "big") + head + b"".join(rest)


DECODERS = [
    each
    for module in (control, orders, requests)
    for each in vars(module).values()
    if isinstance(each, codec.Decoder)
]


def decodes(decoder: codec.Decoder[Any], frame: bytes) -> bool:
    """Tags are numbered within each union: what is nearly an event to one may be a question to another."""
    with contextlib.suppress(InvalidInput):
        decoder(frame)
        return True
    return False


def noise() -> list[bytes]:
    """Single frames, none of which is a message of the floor."""
    chance = random.Random(1)
    found = [
        b"",
        b"\0",
        b"hello?",
        chance.randbytes(1_000),
        bytes(codec.FRAME_BYTES_MAX + 1),
        b'{"stream":"btcusdt@trade"}',
        b"\x91" * DEEP,
    ]
    deep_map = b"\x81\xa1a" * DEEP
    for kind in (control.Event, orders.Place, orders.Fence, requests.Credit):
        found += [
            nearly(kind),
            nearly(kind, b"\xa3\xff\xfe\xfd"),
            nearly(kind, b"\xa4kind", deep_map),
            nearly(kind, b"\xc0" * 40),
        ]
    return [frame for frame in found if not any(decodes(decoder, frame) for decoder in DECODERS)]


def shapes() -> list[list[bytes]]:
    """Messages of several frames where one is wanted."""
    return [[b"a", b"b"], [b"", b"REQ has an empty frame"], [b"1", b"2", b"3"], [bytes(10)] * 50]


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor("--seed", "9") as one:
        floors.wait_for("trading", lambda: one.status()["flow"]["fills"] > 0, pause_s=0.2)
        yield one


@pytest.fixture
def untroubled(floor: floors.Floor) -> Iterator[None]:
    """What every test here claims: the same processes in the same roles before and after, healthy, and
    trading.
    """

    def shown(status: dict[str, Any]) -> list[Any]:
        return [
            (
                each["name"],
                each["leader"],
                each["epoch"],
                [(i["id"], i["pid"], i["restarts"]) for i in each["instances"]],
            )
            for each in status["services"]
        ]

    def helpers() -> list[Any]:
        found = [
            json.loads((floor.site_dir / "hosts" / host / f"{who}.lock").read_text())["pid"]
            for host in HOSTS
            for who in ("agent", "keeper")
        ]
        return [*found, json.loads((floor.site_dir / "floor.json").read_text())["floord"]]

    before, helpers_before = floor.status(), helpers()
    yield
    traded = floor.status()["flow"]["orders"]
    floors.wait_for(
        "orders after the noise", lambda: floor.status()["flow"]["orders"] > traded + 2, pause_s=0.2
    )
    floors.wait_for("a healthy floor", floor.healthy)
    assert shown(floor.status()) == shown(before)
    assert helpers() == helpers_before, "agents, keepers and hft-floord are the same processes"
    floors.wait_for(
        "50 messages of which none is lost", lambda: lossless(floor)
    )  # counters come once a second: those of the noise may still come


def lossless(floor: floors.Floor) -> bool:
    before = floor.status()["flow"]
    floors.wait_for("more messages", lambda: floor.status()["flow"]["messages"] > before["messages"] + 50)
    return bool(floor.status()["flow"]["lost"] == before["lost"])


def endpoints(floor: floors.Floor) -> dict[tuple[str, str], str]:
    """(instance, socket) -> endpoint, of all that is bound."""
    found = [i for service in floor.status()["services"] for i in service["instances"]]
    return {(i["id"], name): where for i in found for name, where in i["endpoints"].items()}


def metric(floor: floors.Floor, host: str, name: str, label: str = "") -> float:
    body = unix.request(
        folders.Folders(floor.site_dir).agent_socket(host), "GET", "/metrics", timeout_s=10
    ).body.decode()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in body.splitlines()
        if re.match(rf"{name}_total\{{", line) and label in line
    )


def rose(
    floor: floors.Floor,
    host: str,
    name: str,
    label: str,
    from_value: float,
    by: int,
    seconds: float = floors.WAIT_S,
) -> None:
    floors.wait_for(
        f"{by} more in {name} {label}",
        lambda: metric(floor, host, name, label) >= from_value + by,
        seconds=seconds,
        pause_s=0.1,
    )


@contextlib.contextmanager
def dealer(endpoint: str, kind: int = zmq.DEALER) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as found:
        found.linger = 10_000  # all of it shall arrive
        if kind == zmq.DEALER:
            found.identity = b"stranger"  # readable, so that it is the message that is judged
        found.connect(endpoint)
        yield found


def run_dir(floor: floors.Floor) -> Path:
    return folders.Folders(floor.site_dir).run_dir()


@pytest.mark.usefixtures("untroubled")
def test_noise_on_every_router_of_a_daemon_is_counted_and_dropped(floor: floors.Floor) -> None:
    found = {key: where for key, where in endpoints(floor).items() if key[1] in ROUTERS}
    assert len(found) >= 10, "all daemons that can be spoken to"
    sent, before = dict.fromkeys((instance for instance, _ in found), 0), {}
    for (instance, _), where in found.items():
        host = instance.split("-")[-2]
        before.setdefault(instance, (host, metric(floor, host, "hft_undecodable", f'"{instance}"')))
        with dealer(where) as stranger:
            for message in [*([frame] for frame in noise()), *shapes()]:
                stranger.send_multipart(message)
                sent[instance] += 1
    for instance, (host, counted) in before.items():
        rose(floor, host, "hft_undecodable", f'"{instance}"', counted, sent[instance])


@pytest.mark.usefixtures("untroubled")
def test_noise_on_the_agents_buses_is_counted_and_dropped(floor: floors.Floor) -> None:
    for host in HOSTS:
        before = metric(floor, host, "hft_agent_undecodable")
        messages = [*([frame] for frame in noise()), *shapes()]
        with dealer(f"ipc://{run_dir(floor)}/{host}.bus") as stranger:
            for message in messages:
                stranger.send_multipart(message)
        rose(floor, host, "hft_agent_undecodable", "", before, len(messages))


@pytest.mark.usefixtures("untroubled")
def test_a_hello_of_a_process_that_is_not_the_instance_is_not_believed(floor: floors.Floor) -> None:
    before = metric(floor, "alpha", "hft_agent_disbelieved")
    who = codec.ProcessOnWire("bookd-alpha-1", "00000000-0000-4000-8000-000000000000", 1, 1)
    with dealer(f"ipc://{run_dir(floor)}/alpha.bus") as stranger:
        stranger.send(
            codec.encode(
                control.Hello(
                    codec.VERSION, 1, 0, "bookd-alpha-1", None, who, "bookd", "0", {"tops": "ipc:///nowhere"}
                )
            )
        )
    rose(floor, "alpha", "hft_agent_disbelieved", "", before, 1)
    assert floor.instance("bookd-alpha-1")["endpoints"]["tops"] != "ipc:///nowhere"


@pytest.mark.usefixtures("untroubled")
def test_connections_in_the_name_of_every_daemon_mute_none(floor: floors.Floor) -> None:
    """To every socket that somebody may send to, the agents' too, under the identities that daemons would
    have without their random part.
    """
    names = {
        name
        for service in floor.status()["services"]
        for i in service["instances"]
        for name in (i["id"], f"{i['id']}.{i['pid']}")
    }
    found = [where for (_, name), where in endpoints(floor).items() if name in ROUTERS]
    found += [f"ipc://{run_dir(floor)}/{host}.bus" for host in HOSTS]
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        context.max_sockets = len(names) * len(found) + 10
        strangers = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(len(names) * len(found))]
        for stranger, (where, name) in zip(strangers, itertools.product(found, names), strict=True):
            stranger.linger, stranger.immediate, stranger.identity = 0, 1, name.encode()
            stranger.connect(where)
        floors.wait_for("all connected", lambda: all(each.poll(0, zmq.POLLOUT) for each in strangers))
        before = floor.status()["flow"]
        floors.wait_for(
            "orders and fills go on",
            lambda: all(floor.status()["flow"][each] > before[each] + 5 for each in ("orders", "fills")),
            pause_s=0.2,
        )
        assert floor.json("orders"), "agents still ask their daemons"
        assert not any(each.poll(0) for each in strangers), "nothing goes to a stranger"


@pytest.mark.usefixtures("untroubled")
def test_what_publishers_are_sent_does_not_disturb_them(floor: floors.Floor) -> None:
    published = [
        where for (_, name), where in endpoints(floor).items() if name in ("market", "tops", "positions")
    ]
    assert len(published) == 3
    for where in published:
        with dealer(where, zmq.XSUB) as stranger:
            for frame in noise():
                stranger.send(frame)
            stranger.send_multipart([b"\x01", b"\x00", b"\xff"])


def raw(path: Path | tuple[str, int], *parts: bytes, to_the_end: bool = False) -> None:
    """Bytes on a stream socket, then our end of it, and perhaps the other's; whether anybody reads them is
    not our business.
    """
    family = socket.AF_UNIX if isinstance(path, Path) else socket.AF_INET
    with socket.socket(family) as stranger:
        stranger.settimeout(0.5)
        with contextlib.suppress(OSError):
            stranger.connect(str(path) if isinstance(path, Path) else path)
            for part in parts:
                stranger.sendall(part)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(65_536) and to_the_end:
                pass


BYTES = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff" + bytes(8) + b"\x7f\x03\x00NULL",
    random.Random(2).randbytes(100_000),
    b"\xff" * 64,
    b"",
)


@pytest.mark.usefixtures("untroubled")
def test_bytes_that_are_not_zeromq_on_every_socket_do_no_harm(floor: floors.Floor) -> None:
    """To a PUSH socket some of them are a peer of ZeroMQ's first protocol, which gets its share of the feed
    until it goes: lost, noticed, healed.
    """
    paths = [Path(where.removeprefix("ipc://")) for where in endpoints(floor).values()] + [
        run_dir(floor) / f"{host}.bus" for host in HOSTS
    ]
    for path in paths:
        for part in BYTES:
            raw(path, part)


LINES = (
    b"hello?\n",
    b"\xff\xfe\n",
    b"{}\n",
    b'{"instances": 3}\n',
    b'{"instances": [{"process": {}}]}\n',
    b'{"x": ' + b"[" * DEEP + b"\n",
    b'{"instances": ["\xff"]}\n',
    b"x" * (2 << 20) + b"\n",
    b'{"instances": [',
)


def lines_counted(floor: floors.Floor, host: str, before: float) -> bool:
    """To be tried again: an agent that connects takes the stranger's place in turn, and its line may not have
    been read by then.
    """
    for line in LINES:
        raw(run_dir(floor) / f"{host}.keeper.sock", line, to_the_end=True)
    with contextlib.suppress(floors.NotInTime):
        rose(floor, host, "hft_agent_keeper_undecodable", "", before, len(LINES), seconds=5)
        return True
    return False


@pytest.mark.usefixtures("untroubled")
def test_noise_on_a_keeper_s_socket_and_its_pings_is_counted_and_its_agent_comes_back(
    floor: floors.Floor,
) -> None:
    """A connection takes the agent's place: it has to connect again, and the table is what it was."""
    for host in HOSTS:
        before = metric(floor, host, "hft_agent_keeper_undecodable")
        floors.wait_for("every line counted", partial(lines_counted, floor, host, before))
        pid = json.loads((floor.site_dir / "hosts" / host / "keeper.lock").read_text())["pid"]
        refused = "hft_agent_keeper_(undecodable|unauthenticated)"
        before = metric(floor, host, refused)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            pings = [b"", b"\xff", b"{}", b"[" * 60_000, b'["ping"', b'{"type": "Ping", "site": "\xff"}']
            for ping in pings:
                stranger.sendto(ping, udp_of(pid))
        rose(floor, host, refused, "", before, len(pings))


def udp_of(pid: int) -> tuple[str, int]:
    """Where a process listens for datagrams."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(fd.readlink()))
    for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in inodes:
            address, port = fields[1].split(":")
            return socket.inet_ntoa(int(address, 16).to_bytes(4, "little")), int(port, 16)
    raise AssertionError(f"pid {pid} has no datagram socket")


def answered(ask: Callable[[], unix.Answer], status: int) -> None:
    answer = ask()
    assert answer.status == status, answer
    assert b"Traceback" not in answer.body


@pytest.mark.usefixtures("untroubled")
def test_noise_on_the_http_of_agents_and_controller_is_answered_with_an_error(floor: floors.Floor) -> None:
    status = floor.status()
    ports = [int(host["url"].rsplit(":", 1)[1]) for host in status["hosts"]] + [
        int(status["controller"]["url"].rsplit(":", 1)[1])
    ]
    long = b"GET /live HTTP/1.1\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n"
    for where in [
        *((run_dir(floor) / f"{host}.agent.sock") for host in HOSTS),
        *(("127.0.0.1", port) for port in ports),
    ]:
        for part in (
            *BYTES,
            long,
            b"POST /v1/site/failover HTTP/1.1\r\nContent-Length: 99\r\n\r\n{",
            b"GET /%00/../../etc/passwd HTTP/1.1\r\n\r\n",
        ):
            raw(where, part)
    for host in HOSTS:
        path = folders.Folders(floor.site_dir).agent_socket(host)
        for body in (
            b"",
            b"no json",
            b"[]",
            b"\xff",
            b"[" * DEEP,
            b'{"service": 1}',
            b'{"service": "nobody", "to": null, "reason": "x", "actor": "x", "timeout_s": 1}',
        ):
            answer = unix.request(path, "POST", "/v1/site/failover", body, timeout_s=10)
            assert 400 <= answer.status < 500, (body[:40], answer)
            assert b"Traceback" not in answer.body
        for target in (
            "/nothing",
            "/v1/instances/nobody",
            "/v1/site/events?after=x",
            "/v1/instances/bookd-alpha-1/log?lines=-1",
            "/v1/site/ask/nobody/x",
        ):
            answer = unix.request(path, "GET", target, timeout_s=10)
            assert 400 <= answer.status < 500, (target, answer)
