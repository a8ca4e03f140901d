"""The floor of tick to order: the same chain of hops in bare pyzmq, nothing but receive and send in each process.

market -> books (PUB/SUB) -> strategy (PUB/SUB) -> risk -> orders -> execution (DEALER/ROUTER), six processes, 200-byte frames, a Poisson-like
pause between two ticks as on the tape. Prints one JSON line: the distribution in µs from just before the first send to the last receive.
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
STAMP = struct.Struct("<q")


def forward(receive: zmq.Socket[bytes], send: zmq.Socket[bytes], is_router: bool) -> None:
    poller = zmq.Poller()
    poller.register(receive, zmq.POLLIN)
    while True:
        poller.poll()
        frame = receive.recv_multipart()[-1] if is_router else receive.recv()
        send.send(frame)
        if not frame:
            return


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
    forward(receive, send, is_router)
    time.sleep(0.2)  # let the last frame leave
    context.destroy(linger=200)


def last(folder: Path, results: int) -> None:
    context = zmq.Context()
    receive = context.socket(zmq.ROUTER)
    receive.bind(f"ipc://{folder}/{HOPS - 1}")
    taken = []
    while frame := receive.recv_multipart()[-1]:
        taken.append(time.monotonic_ns() - STAMP.unpack_from(frame)[0])
    os.write(results, json.dumps(sorted(taken)[: len(taken)]).encode())


def run(ticks: int, rate: float, seed: int = 1) -> dict[str, float]:
    """Latencies in µs of `ticks` ticks at `rate` a second: {"p50", "p99", "p99_9"}."""
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
        pause = random.Random(seed)
        body = bytes(192)
        for _ in range(ticks):
            send.send(STAMP.pack(time.monotonic_ns()) + body)
            time.sleep(pause.expovariate(rate))
        time.sleep(0.3)
        send.send(b"")
        data = b"".join(iter(lambda: os.read(read, 1 << 16), b""))
        os.close(read)
        for pid in pids:
            os.waitpid(pid, 0)
        context.destroy(linger=0)
    taken = json.loads(data)
    at = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}
    return {key: taken[min(len(taken) - 1, int(share * len(taken)))] / 1000 for key, share in at.items()}


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if len(sys.argv) > 1 else 3000, 100.0)))
