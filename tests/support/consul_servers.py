"""Real Consul servers for tests: where a binary comes from, and one running server, or several, as a context
manager.

`python -m tests.support.consul_servers [VERSION]` prints the path of a binary, getting it when it is missing:
HFT_CONSUL or PATH if new enough, the cache, a build by Go from the pinned modules in tests/servers/. What was
built stays in $XDG_CACHE_HOME/hftctl (a folder for each version), so that the second run is instant.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.store.consul import versions
from tests.support import servers

BUILT = "1.19.2"
PINNED = {"1.19.2": "consul-1.19", "1.15.4": "consul-1.15"}
"""Version -> its module under tests/servers/, that Go builds."""
TRANSACTION_BYTES_MAX = 2 << 20
"""The port's 512 KiB of values are 700 KB as a transaction carries them; Consul's own limit is 512 KiB."""
BUILD_S_MAX = 1200
START_S_MAX = 60


def consul() -> Path:
    """The path of a Consul that is new enough. Raises NoServer."""
    return _got(at_hand, BUILT)


def of_version(version: str) -> Path:
    """This one, from the cache, or built. Raises NoServer."""
    path = servers.cache() / f"consul-{version}" / "consul"
    return _got(lambda: path if os.access(path, os.X_OK) else None, version)


def _got(look: Callable[[], Path | None], version: str) -> Path:
    if (found := look()) is not None:
        return found
    with servers.locked():
        if (found := look()) is not None:
            return found
        try:
            return build(version)
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stderr", b"") or b""
            raise servers.NoServer(f"no Consul: {exc} {said.decode(errors='replace')[-300:]}") from exc


def at_hand() -> Path | None:
    for named in (os.environ.get("HFT_CONSUL"), shutil.which("consul")):
        if named and good(Path(named)):
            return Path(named)
    cached = servers.cache() / f"consul-{BUILT}" / "consul"
    return cached if os.access(cached, os.X_OK) else None


def good(binary: Path) -> bool:
    try:
        said = subprocess.run([binary, "version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    version = versions.parse(said.stdout)
    return version is not None and not versions.fault(version)


def build(version: str = BUILT) -> Path:
    go = servers.go_to_build()
    folder = servers.cache() / f"consul-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "consul.new"
    flags = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w"]
    subprocess.run(
        [str(go), "build", *flags, "-o", str(fresh), "github.com/hashicorp/consul"],
        cwd=servers.ROOT / "servers" / PINNED[version],
        env={**os.environ, "CGO_ENABLED": "0"},
        check=True,
        capture_output=True,
        timeout=BUILD_S_MAX,
    )
    return fresh.rename(folder / "consul")


@dataclass
class Server:
    """One Consul process in server mode on free ports of loopback; `kill`, `start` again on the same data,
    `pause` and `resume`.
    """

    binary: Path
    folder: Path
    ports: Mapping[str, int]
    name: str = "one"
    more: dict[str, Any] = field(default_factory=dict)
    token: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.ports['http']}"

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.name}.log").read_text(errors="replace")

    def configuration(self) -> dict[str, Any]:
        return {
            "server": True,
            "bootstrap_expect": 1,
            "node_name": self.name,
            "data_dir": str(self.folder),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {"dns": -1, "grpc": -1, "grpc_tls": -1, "https": -1, "serf_wan": -1, **self.ports},
            "performance": {"raft_multiplier": 1},
            "session_ttl_min": "1s",
            "limits": {"txn_max_req_len": TRANSACTION_BYTES_MAX},
            "disable_update_check": True,
            "leave_on_terminate": False,
            "log_level": "warn",
            **self.more,
        }

    def start(self, *, wait: bool = True) -> None:
        config = self.folder.parent / f"{self.name}.json"
        config.write_text(json.dumps(self.configuration()))
        with (self.folder.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "agent", "-config-file", config],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Until it answers a read that its leader has asked a quorum for."""
        deadline_s = time.monotonic() + START_S_MAX
        request = urllib.request.Request(
            f"http://{self.endpoint}/v1/kv/hft?consistent&keys",
            headers={"X-Consul-Token": self.token} if self.token else {},
        )
        while True:
            try:
                with urllib.request.urlopen(request, timeout=2):
                    return
            except urllib.error.HTTPError as exc:
                if exc.code == 404:
                    return
            except (urllib.error.URLError, OSError):
                pass
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline_s:
                raise servers.NoServer(
                    f"{self.binary} did not get a leader; its log ends: {self.log[-2000:]}"
                )
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
            self.process.wait(10)
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        servers.stop_whole(self.process)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


def _ports() -> dict[str, int]:
    return dict(zip(("http", "server", "serf_lan"), servers.free_ports(3), strict=True))


@contextlib.contextmanager
def running(
    binary: Path,
    more: dict[str, Any] | None = None,
    token: str = "",
    ports: Mapping[str, int] | None = None,
) -> Iterator[Server]:
    """A server of its own with empty data; killed and its data removed at the end. `ports`: more of them."""
    with tempfile.TemporaryDirectory(prefix="hft-consul-") as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir(mode=0o700)
        server = Server(binary, folder, _ports() | dict(ports or {}), more=more or {}, token=token)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def cluster(binary: Path, size: int = 3) -> Iterator[list[Server]]:
    """Several servers on loopback."""
    with tempfile.TemporaryDirectory(prefix="hft-consul-") as scratch, contextlib.ExitStack() as stack:
        all_ports = [_ports() for _ in range(size)]
        join = [f"127.0.0.1:{ports['serf_lan']}" for ports in all_ports]
        members = []
        for n, ports in enumerate(all_ports):
            folder = Path(scratch) / f"member{n}"
            folder.mkdir(mode=0o700)
            more = {"bootstrap_expect": size, "retry_join": join, "retry_interval": "1s"}
            members.append(Server(binary, folder, ports, f"member{n}", more))
            stack.callback(members[-1].kill)
            members[-1].start(wait=False)
        for member in members:
            member.wait_ready()
        yield members


if __name__ == "__main__":
    try:
        print(of_version(sys.argv[1]) if sys.argv[1:] else consul())
    except servers.NoServer as exc:
        print(exc, file=sys.stderr)
        sys.exit(1)
