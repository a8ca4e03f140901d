"""The floor of tick to order: the same chain of hops in bare pyzmq, nothing but receive and send in each
process.

market -> books (PUB/SUB) -> strategy (PUB/SUB) -> risk -> orders -> execution (DEALER/ROUTER), six processes.
With the recorded data the ticks have the tape's rhythm and sizes, and those that move a best price become a
replacement for each side, as a market maker's do. Prints one JSON
line: the distribution in µs from just before the tick's send to the new order's last receive.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import tempfile
import time
from pathlib import Path

import zmq

HOPS = 5
STRATEGY = 1
"""The process that lets only some ticks go on."""
HEAD = struct.Struct("<qB")
"""CLOCK_MONOTONIC ns of the tick; sides to requote."""
ORDER = bytes(180)
"""An order on the wire has about 190 bytes."""


def forward(receive: zmq.Socket[bytes], send: zmq.Socket[bytes], is_router: bool, chooses: bool) -> None:
    poller = zmq.Poller()
    poller.register(receive, zmq.POLLIN)
    while True:
        poller.poll()
        frame = receive.recv_multipart()[-1] if is_router else receive.recv()
        if not frame:
            send.send(frame)
            return
        if not chooses:
            send.send(frame)
            continue
        tick_ns, sides = HEAD.unpack_from(frame)
        for _ in range(sides):
            send.send(HEAD.pack(tick_ns, 1) + ORDER)


def hop(folder: Path, number: int) -> None:
    """Process `number` of the chain receives on hop number and sends on hop number + 1."""
    context = zmq.Context()
    is_router = number >= 2
    receive = context.socket(zmq.ROUTER if is_router else zmq.SUB)
    if is_router:
        receive.bind(f"ipc://{folder}/{number}")
    else:
        receive.connect(f"ipc://{folder}/{number}")
        receive.subscribe(b"")
    following = number + 1
    send = context.socket(zmq.DEALER if following >= 2 else zmq.PUB)
    if following >= 2:
        send.connect(f"ipc://{folder}/{following}")
    else:
        send.bind(f"ipc://{folder}/{following}")
    forward(receive, send, is_router, chooses=number == STRATEGY)
    time.sleep(0.2)  # let the last frame leave
    context.destroy(linger=200)


def last(folder: Path, results: int) -> None:
    context = zmq.Context()
    receive = context.socket(zmq.ROUTER)
    receive.bind(f"ipc://{folder}/{HOPS - 1}")
    taken = []
    while frame := receive.recv_multipart()[-1]:
        taken.append(time.monotonic_ns() - HEAD.unpack_from(frame)[0])
    os.write(results, json.dumps(sorted(taken)).encode())


Tick = tuple[float, int, int]
"""Pause before it in s, size of its market message in bytes, sides that it moves: each is an order beyond the
strategy."""


def poisson(ticks: int, rate: float, seed: int = 1) -> list[Tick]:
    """Without recorded data: every tick becomes an order."""
    pause = random.Random(seed)
    return [(pause.expovariate(rate), 200, 1) for _ in range(ticks)]


def recorded(folder: Path, seconds: float, requote_s: float = 0.5) -> list[Tick]:
    """The tape's own rhythm and sizes; a tick requotes the sides whose best price it moves, at most every
    `requote_s` for each instrument.
    """
    from hftd.engine.market import book
    from hftd.venues import binance, replay
    from hftd.wire import market

    tape = replay.Tape([folder])
    normalise = {each.id: binance.Normaliser(each.market, each.id, each.symbol) for each in tape.instruments}
    trades = {each.id for each in tape.instruments if each.contract != "inverse"}
    books = {each.id: book.Book() for each in tape.instruments}
    quoted_ns = dict.fromkeys(books, 0)
    ticks: list[Tick] = []
    began_ns = before_ns = 0
    for line in tape:
        if isinstance(line, replay.BadLine):
            continue
        began_ns = began_ns or line.receive_ns
        if line.receive_ns - began_ns > seconds * 1e9:
            break
        message = normalise[line.instrument](line.raw, line.receive_ns, 1)
        if not isinstance(message, market.Message):
            continue
        one = books[line.instrument]
        old = one.best()
        one.apply(message)
        new = one.best()
        sides = 0
        if line.instrument in trades and line.receive_ns - quoted_ns[line.instrument] > requote_s * 1e9:
            sides = (old[0] != new[0]) + (old[2] != new[2])
        if sides:
            quoted_ns[line.instrument] = line.receive_ns
        ticks.append(
            (
                (line.receive_ns - (before_ns or began_ns)) / 1e9,
                len(market.pack(message)) + market.FRAME.size,
                sides,
            )
        )
        before_ns = line.receive_ns
    return ticks


def run(ticks: list[Tick]) -> dict[str, float]:
    """Latencies in µs of the new orders: {"p50", "p99", "p99_9", "n"}."""
    pids: list[int] = []
    with tempfile.TemporaryDirectory(prefix="hft-chain-") as name:
        folder = Path(name)
        read, write = os.pipe()
        for number in range(HOPS):
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(read)
                    last(folder, write) if number == HOPS - 1 else hop(folder, number)
                finally:
                    os._exit(0)
            pids.append(pid)
        os.close(write)
        context = zmq.Context()
        send = context.socket(zmq.PUB)
        send.bind(f"ipc://{folder}/0")
        time.sleep(1.5)  # the subscribers have to join, or PUB drops
        due_s = time.monotonic()
        for pause_s, size, sides in ticks:
            due_s += pause_s
            ahead_s = due_s - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)
            send.send(HEAD.pack(time.monotonic_ns(), sides) + bytes(size - HEAD.size))
        time.sleep(0.3)
        send.send(b"")
        data = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
        os.close(read)
        for pid in pids:
            os.waitpid(pid, 0)
        context.destroy(linger=0)
    taken = json.loads(data)
    at = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}
    return {"n": len(taken)} | {
        key: taken[min(len(taken) - 1, int(share * len(taken)))] / 1000 for key, share in at.items()
    }


if __name__ == "__main__":
    print(json.dumps(run(recorded(Path(sys.argv[1]), 30) if len(sys.argv) > 1 else poisson(2000, 100.0))))
