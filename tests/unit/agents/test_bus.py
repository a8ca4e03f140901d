"""What a daemon says out of range is dropped and counted; what it said before, and all others, stay."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

import msgspec
import pytest
import zmq

from agents import bus
from controlplane.model import Process
from hftd.wire import codec, control
from tests.support.agents import until

NAMES = ("bookd-alpha-1", "riskd-alpha-1")
HEAD = (codec.VERSION, 1, 0)
ALARM = control.AlarmOnWire("bookd.gap", "warning", "bookd", "a gap", 1)


class Host:
    def believes(self, process: Process) -> int | None:
        return 1

    def heard(self, report: bus.Reported, message: control.FromDaemon) -> None:
        pass


def status(name: str, **more: object) -> control.Status:
    good = control.Status(
        *HEAD, name, None, True, "", "active", 1, {"n": 1}, {"g": 1.0}, {"h": {3: 4}}, [ALARM]
    )
    return msgspec.structs.replace(good, **more)


def alarm(**more: object) -> control.AlarmOnWire:
    return msgspec.structs.replace(ALARM, **more)


BAD: dict[str, dict[str, object]] = {
    "a counter over 64 bits": {"counters": {"n": 1 << 63}},
    "a counter whose name ends its line": {"counters": {'n{a="1"}\nx': 1}},
    "more counters than a daemon has": {"counters": {f"n{i}": i for i in range(1000)}},
    "a bucket that no duration has": {"histograms": {"h": {1 << 40: 1}}},
    "a negative count": {"histograms": {"h": {3: -1}}},
    "a reason of a megabyte": {"reason": "x" * (1 << 20)},
    "an epoch that no take makes": {"epoch": 1 << 40},
    "an unknown severity": {"alarms": [alarm(severity="fatal")]},
    "an alarm before there was time": {"alarms": [alarm(since_ns=-1)]},
    "more alarms than fit": {"alarms": [alarm(id=f"a{i}") for i in range(1000)]},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_what_a_daemon_says_out_of_range_is_dropped_and_harms_no_other(
    tmp_path: Path, bad: dict[str, object]
) -> None:
    async def story() -> None:
        one = bus.Bus(f"ipc://{tmp_path}/bus", "agent", Host())
        one.open()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sockets = {name: context.socket(zmq.DEALER) for name in NAMES}
        try:
            for name, socket in sockets.items():
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.IDENTITY, f"{name}.{os.urandom(4).hex()}".encode())
                socket.connect(f"ipc://{tmp_path}/bus")
                who = codec.ProcessOnWire(name, "00000000-0000-4000-8000-000000000000", 7, 1)
                hello = control.Hello(*HEAD, name, None, who, "d", "1", {"x": "ipc:///run/x"})
                for message in (hello, status(name)):
                    socket.send(codec.encode(message))
            await until(lambda: len([r for r in one.reports.values() if r.status]) == 2)
            before = dataclasses.replace(one.reports[NAMES[0]])
            for message in (status(NAMES[0], **bad), status(NAMES[0], seq=9)):
                sockets[NAMES[0]].send(codec.encode(message))
            await until(lambda: one.reports[NAMES[0]].status != before.status)
            found = one.reports[NAMES[0]].status
            assert one.undecodable == 1 and found is not None
            assert found == msgspec.structs.replace(before.status, seq=9), "the good one after it"
            assert one.reports[NAMES[1]].status == status(NAMES[1])
        finally:
            for socket in sockets.values():
                socket.close()
            context.term()
            one.close()

    asyncio.run(story())


def test_a_hello_with_an_endpoint_of_another_kind_is_dropped(tmp_path: Path) -> None:
    who = codec.ProcessOnWire(NAMES[0], "00000000-0000-4000-8000-000000000000", 7, 1)
    for endpoint in ("tcp://192.0.2.1:5555", "ipc://x\nrm", "inproc://x", ""):
        hello = control.Hello(*HEAD, NAMES[0], None, who, "d", "1", {"orders": endpoint})
        with pytest.raises(Exception, match="does not decode"):
            control.decode_from_daemon(codec.encode(hello))
