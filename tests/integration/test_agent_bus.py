"""The agent's bus over real sockets: one process speaks for one name over one connection, whoever tries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import zmq

from agents.bus import Bus, Reported
from controlplane.errors import Retryable
from controlplane.host import identity
from controlplane.model import Process
from hftd.runtime.agent_link import AgentLink
from hftd.wire import codec, control
from tests.support.agents import until

pytestmark = pytest.mark.anyio
NAME = "bookd-alpha-1"


class Host:
    """The agent behind the bus: believes one process."""

    def __init__(self) -> None:
        self.process: Process = identity.myself(NAME)
        self.said: list[control.FromDaemon] = []

    def believes(self, process: Process) -> int | None:
        return 1 if process == self.process else None

    def heard(self, report: Reported, message: control.FromDaemon) -> None:
        self.said.append(message)


@pytest.fixture
def host() -> Host:
    return Host()


@contextlib.asynccontextmanager
async def opened(endpoint: str, host: Host) -> AsyncIterator[Bus]:
    bus = Bus(endpoint, "agent-alpha", host)
    bus.open()
    try:
        yield bus
    finally:
        bus.close()


@contextlib.contextmanager
def daemon(endpoint: str, process: Process) -> Iterator[AgentLink]:
    link = AgentLink(endpoint, process)
    assert link.socket is not None
    try:
        yield link
    finally:
        link.socket.close(0)


async def says_hello(link: AgentLink, where: str = "ipc:///tops") -> None:
    assert link.socket is not None
    await until(lambda: link.hello("bookd", "0.1.0", {"tops": where}))


async def hears(link: AgentLink, kind: type) -> None:
    """The next message of this kind has come to this connection."""

    def came() -> bool:
        assert link.socket is not None
        return bool(link.socket.poll(0)) and isinstance(control.decode_from_agent(link.socket.recv()), kind)

    await until(came)


async def answered(bus: Bus, link: AgentLink, who: str) -> object:
    """What the asker is told, when this connection answers the question that came over it."""

    async def answer() -> None:
        assert link.socket is not None
        await until(lambda: link.socket is not None and link.socket.poll(0))
        asked = control.decode_from_agent(link.socket.recv())
        assert isinstance(asked, control.Ask)
        link.send(control.Answer, asked.ask, True, who)

    answering = asyncio.create_task(answer())
    body = (await bus.ask(NAME, "books", {}, timeout_s=20)).body
    await answering
    return body


async def test_who_connects_with_a_daemons_name_gets_nothing_and_mutes_nobody(
    tmp_path: Path, host: Host
) -> None:
    endpoint = f"ipc://{tmp_path}/bus"
    async with opened(endpoint, host) as bus:
        with daemon(endpoint, host.process) as link, zmq.Context() as context:
            await says_hello(link)
            await hears(link, control.Welcome)
            with context.socket(zmq.DEALER) as stranger:
                stranger.linger, stranger.identity = 0, NAME.encode()
                stranger.connect(endpoint)
                status = control.Status(*codec.no_head(NAME), False, "gone", "", 0, {}, {}, {}, [])
                stranger.send(codec.encode(status))
                await until(lambda: bus.disbelieved == 1)
                assert await answered(bus, link, "the daemon") == "the daemon"
                bus.peers(NAME, "marketd", "marketd", [])
                await hears(link, control.Peers)
                assert not stranger.poll(0)
            assert not [each for each in host.said if isinstance(each, control.Status)]


async def test_a_hello_that_names_the_right_process_over_another_connection_is_not_believed(
    tmp_path: Path, host: Host
) -> None:
    endpoint = f"ipc://{tmp_path}/bus"
    async with opened(endpoint, host) as bus:
        with daemon(endpoint, host.process) as link, daemon(endpoint, host.process) as stranger:
            await says_hello(link)
            await hears(link, control.Welcome)
            await says_hello(stranger, "ipc:///elsewhere")
            await until(lambda: bus.disbelieved == 1)
            assert bus.reports[NAME].endpoints == {"tops": "ipc:///tops"}
            await hears(link, control.Welcome)  # which asked whether it is still there
            assert await answered(bus, link, "the daemon") == "the daemon"
            await says_hello(link, "ipc:///moved")
            await until(lambda: bus.reports[NAME].endpoints == {"tops": "ipc:///moved"})


async def test_a_restarted_process_takes_its_name_over_and_the_old_connection_is_not_heard(
    tmp_path: Path, host: Host
) -> None:
    endpoint = f"ipc://{tmp_path}/bus"
    async with opened(endpoint, host) as bus:
        with daemon(endpoint, host.process) as old:
            await says_hello(old)
            await hears(old, control.Welcome)
            host.process = Process(NAME, host.process.boot_id, host.process.pid, host.process.start_time + 1)
            with daemon(endpoint, host.process) as new:
                await says_hello(new)
                await hears(new, control.Welcome)
                before = bus.disbelieved
                old.send(control.Event, "book.gap", {})
                await until(lambda: bus.disbelieved == before + 1)
                assert await answered(bus, new, "the new one") == "the new one"


async def test_a_connection_that_is_gone_holds_no_name(tmp_path: Path, host: Host) -> None:
    endpoint = f"ipc://{tmp_path}/bus"
    async with opened(endpoint, host) as bus:
        with daemon(endpoint, host.process) as first:
            await says_hello(first)
            await hears(first, control.Welcome)
        with daemon(endpoint, host.process) as second:

            async def welcomed() -> bool:
                await says_hello(second)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await hears(second, control.Welcome)
                        return True
                return False

            while not await welcomed():
                pass
            assert await answered(bus, second, "the second") == "the second"
        bus.forget(NAME)
        with pytest.raises(Retryable, match="not connected"):
            await bus.ask(NAME, "books", {}, timeout_s=1)


async def test_a_new_agent_hears_the_daemons_that_it_adopts_before_their_next_hello(
    tmp_path: Path, host: Host
) -> None:
    endpoint = f"ipc://{tmp_path}/bus"
    with daemon(endpoint, host.process) as link:
        async with opened(endpoint, host) as bus:
            await says_hello(link)
            await hears(link, control.Welcome)
            known = bus.reports[NAME].link
        async with opened(endpoint, host) as bus:
            bus.adopt(Reported(host.process, "bookd", "0.1.0", {}, known))
            await until(lambda: link.send(control.Event, "book.gap", {}))
            await until(lambda: [each for each in host.said if isinstance(each, control.Event)])
            assert await answered(bus, link, "adopted") == "adopted"


async def test_a_daemon_whose_identity_is_its_name_alone_is_believed(tmp_path: Path, host: Host) -> None:
    """As the contract had it before identities had a random part."""
    endpoint = f"ipc://{tmp_path}/bus"
    async with opened(endpoint, host) as bus:
        with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
            plain.linger, plain.identity = 0, NAME.encode()
            plain.connect(endpoint)
            hello = (codec.ProcessOnWire.of(host.process), "bookd", "0.1.0", {"tops": "ipc:///tops"})
            plain.send(codec.encode(control.Hello(*codec.no_head(NAME), *hello)))
            await until(lambda: plain.poll(0))
            assert isinstance(control.decode_from_agent(plain.recv()), control.Welcome)
            assert bus.reports[NAME].link == NAME.encode()
