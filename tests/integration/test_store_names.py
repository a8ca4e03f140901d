"""A store that is named by a host name, whose name server goes away or hangs (faults.md, row 25)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from controlplane import store
from controlplane.errors import Unavailable
from controlplane.store import Committed
from controlplane.store.names import Name
from tests.support import consul_servers, servers
from tests.support.stores import SOON_S

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]
NAME = "store.floor.test"


class NameServer:
    """In the place of getaddrinfo, for the one name."""

    def __init__(self) -> None:
        self.answer: list[str] | None = ["127.0.0.1"]
        """None: it does not know the name any more."""
        self.hangs = threading.Event()
        self.goes_on = threading.Event()
        self.asked = 0
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != NAME:
            return self._real(host, port, *rest, **more)
        self.asked += 1
        if self.hangs.is_set():
            self.goes_on.wait(60)
        if self.answer is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [row for each in self.answer for row in self._real(each, port, *rest, **more)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    yield server
    server.goes_on.set()


@pytest.fixture(params=["etcd", "consul"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    if request.param == "etcd":
        with servers.running(servers.etcd()) as etcd:
            yield "etcd", etcd.client_port
        return
    with consul_servers.running(consul_servers.consul()) as consul:
        yield "consul", consul.ports["http"]


def ends(client: Any, kind: str) -> list[Any]:
    """The client's endpoints."""
    return list(client.calls.servers if kind == "consul" else client.calls.endpoints)


def named(kind: str, port: int) -> store.Store:
    """A name of another machine wants TLS; the one that is given here stands for loopback."""
    client = store.connect(f"{kind}://127.0.0.1:{port}")
    for each in ends(client, kind):
        each.address = f"{NAME}:{port}"
        each._name = Name(NAME)
    return client


def drop(client: store.Store, kind: str) -> None:
    """The next call needs a new connection."""
    for each in ends(client, kind):
        each.drop()


async def test_a_name_that_was_known_is_enough_while_nobody_answers_for_it(
    names: NameServer, endpoint: tuple[str, int]
) -> None:
    kind, port = endpoint
    client = named(kind, port)
    try:
        assert isinstance(await client.put("hft/a", b"1"), Committed)
        names.answer = None
        for _ in range(3):
            drop(client, kind)
            assert isinstance(await client.put("hft/a", b"2"), Committed)
        names.hangs.set()
        for _ in range(3):
            drop(client, kind)
            assert isinstance(await client.put("hft/a", b"3"), Committed)
        before = names.asked
        drop(client, kind)
        await client.get("hft/a")
        assert names.asked <= before + 1, "one look-up hangs, and no other is begun"
    finally:
        await client.close()


async def test_a_name_that_nobody_knows_costs_a_try_and_is_found_when_it_is_known(
    names: NameServer, endpoint: tuple[str, int]
) -> None:
    kind, port = endpoint
    names.answer = None
    client = named(kind, port)
    try:
        with pytest.raises(Unavailable) as caught:
            await client.put("hft/a", b"1")
        assert not caught.value.ambiguous and NAME in str(caught.value)
        names.answer = ["127.0.0.1"]
        async with asyncio.timeout(SOON_S):
            while True:
                try:
                    assert isinstance(await client.put("hft/a", b"1"), Committed)
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
    finally:
        await client.close()


async def test_a_look_up_that_hangs_holds_nobody_longer_than_his_own_deadline(names: NameServer) -> None:
    names.hangs.set()
    name = Name(NAME)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await name.addresses()
    assert names.asked == 1
    await asyncio.wait_for(asyncio.to_thread(lambda: None), SOON_S)  # the loop's own threads are free
    names.goes_on.set()
    async with asyncio.timeout(SOON_S):
        while not name.known():  # noqa: ASYNC110  it sets no event
            await asyncio.sleep(0.01)
    assert await name.addresses() == ["127.0.0.1"]


async def test_an_address_that_gives_no_connection_comes_last_and_a_literal_is_never_asked_for(
    names: NameServer,
) -> None:
    names.answer = ["127.0.0.1", "127.0.0.2"]
    name = Name(NAME)
    assert await name.addresses() == ["127.0.0.1", "127.0.0.2"]
    name.failed("127.0.0.1")
    assert name.known() == ["127.0.0.2", "127.0.0.1"]
    asked = names.asked
    for literal in ("127.0.0.1", "[::1]"):
        assert Name(literal).known() == [literal.strip("[]")]
    assert names.asked == asked
