"""marketd and bookd as real processes without a floor: this process plays their agent. For the throughput
benchmark and for integration tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hftd import bus, settings
from hftd.shm import pages
from hftd.wire import codec, control

ROOT = Path(__file__).resolve().parent.parent

CHILD = """
import importlib, sys
from hftd import runtime, settings
name, kind = sys.argv[1], getattr(settings, sys.argv[2])
context = runtime.Context.from_environment()
build = importlib.import_module("hftd.daemons." + name).build
sys.exit(build(context, kind(**context.config.settings)).run())
"""


class Pair:
    """Daemons as processes, and the agent that introduces them to each other. Use with `with`: all are gone
    afterwards.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` must be short: socket paths end at 107 bytes."""
        self.folder = folder
        self._router = bus.link.Router(f"ipc://{folder}/bus")
        self._endpoints: dict[str, dict[str, str]] = {}
        self._daemons: dict[str, bytes] = {}
        """Instance -> the identity of its connection."""
        self.events: list[control.Event] = []
        self._answers: dict[int, control.Answer] = {}
        self.status: dict[str, control.Status] = {}
        self._ask = 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, chosen: settings.MarketSettings | settings.BookSettings | settings.SimSettings
    ) -> None:
        folder, instance = self.folder, f"{name}-alpha-1"
        config, alive = folder / f"{instance}.config.json", folder / f"{instance}.alive"
        plain = {"revision": 1, "daemon": name, "settings": asdict(chosen)}
        config.write_text(
            json.dumps(
                plain | {key: str(folder) for key in ("run_dir", "site_dir", "data_dir", "journal_dir")}
            )
        )
        if not alive.exists():
            pages.create(alive, pages.ALIVE_MAGIC)
        names = {"HFT_SITE": "bench", "HFT_HOST": "alpha", "HFT_SERVICE": name, "HFT_INSTANCE": instance}
        paths = {"HFT_CONFIG": str(config), "HFT_ALIVE": str(alive), "HFT_AGENT": f"ipc://{folder}/bus"}
        with (folder / f"{instance}.log").open("ab") as log:
            command = [sys.executable, "-c", CHILD, name, type(chosen).__name__]
            self.processes[name] = subprocess.Popen(
                command, env=os.environ | names | paths, cwd=ROOT, stdout=log, stderr=log
            )

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._router.close()

    def turn(self, timeout_ms: int = 100) -> None:
        """Read what the daemons say; when one has bound its sockets, tell the other."""
        for process in self.processes.values():
            if process.poll() is not None:
                logs = "\n".join(log.read_text()[-2_000:] for log in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"{process.args!r:.80} ended with {process.returncode}\n{logs}")
        if not self._router.socket.poll(timeout_ms):
            return
        identity, frame = self._router.socket.recv_multipart()
        match control.decode_from_daemon(frame):
            case control.Hello() as hello:
                self._daemons[hello.source] = identity
                self._send(hello.source, control.Welcome, 1)
                self.introduce(hello.source, hello.endpoints)
            case control.Status() as status:
                self.status[status.source] = status
            case control.Event() as event:
                self.events.append(event)
            case control.Answer() as answer:
                self._answers[answer.ask] = answer

    def introduce(self, instance: str, endpoints: dict[str, str]) -> None:
        """Everyone hears of everyone, this one too; the caller may play a daemon itself."""
        self._endpoints[instance] = endpoints
        for daemon in self._daemons:
            for peer, bound in self._endpoints.items():
                name = peer.split("-")[0]
                self._send(daemon, control.Peers, name, name, [control.Peer(peer, bound, "", 0)])

    def _send(self, instance: str, make: Any, *fields: object) -> None:
        self._router.send(
            self._daemons[instance], codec.encode(make(*codec.head("agent", time.time_ns(), 1), *fields))
        )

    def ask(self, name: str, what: str) -> dict[str, Any] | None:
        """The answer, or None while the daemon is not there yet."""
        instance = f"{name}-alpha-1"
        if instance not in self._daemons:
            self.turn()
            return None
        self._ask += 1
        self._send(instance, control.Ask, self._ask, what, {})
        until = time.monotonic() + 10
        while self._ask not in self._answers and time.monotonic() < until:
            self.turn()
        answer = self._answers.pop(self._ask, None)
        return answer.body if answer is not None and answer.ok else None

    def until(self, wanted: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Turn until it is so. Raises AssertionError with the last status of each daemon."""
        end = time.monotonic() + timeout_s
        while not wanted():
            assert time.monotonic() < end, f"{what}: not within {timeout_s} s; {self.status}"
            self.turn(20)

    def stop(self, name: str) -> None:
        """kill -9."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()
