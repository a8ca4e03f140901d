"""Real etcd servers for tests: where a good binary comes from, and one running server as a context manager.

`python -m tests.support.servers etcd` prints the path of a binary that may keep data, getting it when it is
missing: HFT_ETCD or PATH if good, the cache, a build by Go from the pinned module in tests/servers/, Debian's
package. Nothing is installed and no service is started; what was got stays in $XDG_CACHE_HOME/hftctl (a
folder for each version), so that the second run is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.errors import HftctlError
from controlplane.floor import etcd as embedded
from controlplane.floor import etcd_versions
from tests.support import go_toolchain

ROOT = Path(__file__).resolve().parent.parent
BUILT = "3.7.3"
PINNED = {"3.7.3": "etcd-3.7", "3.6.16": "etcd-3.6"}
"""Version -> its module under tests/servers/, that Go builds."""
DEBIANS = "3.4.23"
"""What Debian 12's package has in it."""
BUILD_S_MAX = 600
START_S_MAX = 30


class NoServer(Exception):
    """No way to get one worked; says why each did not."""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hftctl"


def etcd() -> Path:
    """The path of a good etcd, from the first place that has one. Raises NoServer."""
    found = etcd_at_hand()
    if found is not None:
        return found
    faults = []
    with locked():
        for way in (build_etcd, unpack_debian_etcd):
            try:
                return etcd_at_hand() or way()
            except (NoServer, OSError, subprocess.SubprocessError) as exc:
                detail = (
                    exc.stderr.decode(errors="replace").strip().splitlines()[-1:]
                    if isinstance(exc, subprocess.CalledProcessError)
                    else []
                )
                faults.append(f"{way.__name__}: {' '.join([str(exc), *detail])}")
    raise NoServer("no good etcd: " + "; ".join(faults))


def etcd_at_hand() -> Path | None:
    """HFT_ETCD or PATH when good, else the newest in the cache."""
    with contextlib.suppress(HftctlError):
        choice = embedded.choose()
        if not choice.throw_away:
            return Path(choice.path)
    cached = cached_etcds()
    return cached[-1] if cached else None


def cached_etcds() -> list[Path]:
    """Every good one in the cache, oldest version first."""
    found = [
        (version, folder / "etcd")
        for folder in cache().glob("etcd-*")
        if (version := etcd_versions.parse(folder.name)) is not None
    ]
    return [
        path
        for version, path in sorted(found)
        if os.access(path, os.X_OK) and not etcd_versions.fault(version)
    ]


def of_version(version: str) -> Path:
    """This one, from the cache, or got. Raises NoServer."""
    path = cache() / f"etcd-{version}" / "etcd"
    if os.access(path, os.X_OK):
        return path
    with locked():
        try:
            if os.access(path, os.X_OK):
                return path
            got = build_etcd(version) if version in PINNED else unpack_debian_etcd()
            if got != path:
                raise NoServer(f"no etcd {version}: this Debian's package has {got.parent.name}")
            return got
        except (OSError, subprocess.SubprocessError) as exc:
            raise NoServer(f"no etcd {version}: {exc}") from exc


def go_to_build() -> Path:
    try:
        return go_toolchain.go(cache())
    except go_toolchain.NoGo as exc:
        raise NoServer(str(exc)) from exc


def build_etcd(version: str = BUILT) -> Path:
    go = go_to_build()
    with tempfile.TemporaryDirectory(dir=_made(cache())) as scratch:
        target = Path(scratch) / "etcd"
        flags = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w"]
        subprocess.run(
            [str(go), "build", *flags, "-o", str(target), "go.etcd.io/etcd/server/v3"],
            cwd=ROOT / "servers" / PINNED[version],
            env={**os.environ, "CGO_ENABLED": "0"},
            check=True,
            capture_output=True,
            timeout=BUILD_S_MAX,
        )
        return _keep(target, version)


def unpack_debian_etcd() -> Path:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoServer(f"no {tool}")
    with tempfile.TemporaryDirectory(dir=_made(cache())) as scratch:
        subprocess.run(
            ["apt-get", "download", "etcd-server"],
            cwd=scratch,
            check=True,
            capture_output=True,
            timeout=BUILD_S_MAX,
        )
        (package,) = Path(scratch).glob("etcd-server_*.deb")
        subprocess.run(
            ["dpkg-deb", "-x", str(package), f"{scratch}/x"], check=True, capture_output=True, timeout=60
        )
        binary = Path(scratch) / "x" / "usr" / "bin" / "etcd"
        version, fault = embedded.look(str(binary))
        if version is None or fault:
            raise NoServer(f"{package.name}: {fault}")
        return _keep(binary, str(version))


def _keep(binary: Path, version: str) -> Path:
    folder = _made(cache() / f"etcd-{version}")
    shutil.move(binary, folder / "etcd.new")
    return (folder / "etcd.new").rename(folder / "etcd")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Two test runs at once get it once."""
    with (_made(cache()) / "servers.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- a running server ---------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def stop_whole(process: subprocess.Popen[bytes]) -> None:
    """Frozen when this returns: each thread stops only when it next comes by the kernel."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    deadline_s = time.monotonic() + START_S_MAX
    while any((task / "stat").read_text().rpartition(")")[2].split()[0] != "T" for task in tasks.iterdir()):
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


@dataclass
class Tls:
    """A server's certificate; with `clients_of` it takes only clients with a certificate of that authority
    (all PEM files).
    """

    cert_file: Path
    key_file: Path
    clients_of: Path | None = None
    health_port: int = field(default_factory=lambda: free_ports(1)[0])
    """Where it answers /health in plain HTTP."""

    def arguments(self, endpoint: str) -> list[str]:
        urls = [f"--{flag}-client-urls=https://{endpoint}" for flag in ("listen", "advertise")]
        files = [
            f"--cert-file={self.cert_file}",
            f"--key-file={self.key_file}",
            f"--listen-metrics-urls=http://127.0.0.1:{self.health_port}",
        ]
        return [
            *urls,
            *files,
            *([f"--trusted-ca-file={self.clients_of}", "--client-cert-auth"] if self.clients_of else []),
        ]


@dataclass
class Server:
    """One etcd process on free ports; `kill`, `start` again on the same data, `pause` and `resume`."""

    binary: Path
    folder: Path
    client_port: int
    peer_port: int
    name: str = "one"
    extra: list[str] = field(default_factory=list)
    tls: Tls | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def log(self) -> str:
        return (self.folder.parent / f"{self.name}.log").read_text(errors="replace")

    def start(self, *, wait: bool = True) -> None:
        # 10/100: elections of a test cluster are over in 0.2 s; a product's server keeps the calmer pair of
        # embedded.py.
        quick = ["--heartbeat-interval=10", "--election-timeout=100"]
        # On loopback TCP, unlike the floor's own: tests cut, delay and secure what goes over it.
        urls = (f"http://127.0.0.1:{port}" for port in (self.client_port, self.peer_port))
        command = embedded.arguments(str(self.binary), self.folder, *urls, self.name)
        with (self.folder.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *quick, *(self.tls.arguments(self.endpoint) if self.tls else ()), *self.extra],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        deadline_s = time.monotonic() + START_S_MAX
        endpoint = f"127.0.0.1:{self.tls.health_port}" if self.tls else self.endpoint
        while True:
            try:
                with urllib.request.urlopen(f"http://{endpoint}/health", timeout=1) as answer:
                    if b'"true"' in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                pass
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline_s:
                raise NoServer(f"{self.binary} did not become healthy; its log ends: {self.log[-2000:]}")
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
        stop_whole(self.process)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def running(binary: Path, extra: list[str] | None = None, tls: Tls | None = None) -> Iterator[Server]:
    """A server of its own with empty data; killed and its data removed at the end."""
    with tempfile.TemporaryDirectory(prefix="hft-etcd-") as scratch:
        folder = Path(scratch) / "data"
        folder.mkdir(mode=0o700)
        client_port, peer_port = free_ports(2)
        server = Server(binary, folder, client_port, peer_port, extra=extra or [], tls=tls)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def cluster(binary: Path, size: int = 3) -> Iterator[list[Server]]:
    """Several members on loopback."""
    with tempfile.TemporaryDirectory(prefix="hft-etcd-") as scratch, contextlib.ExitStack() as stack:
        ports = free_ports(2 * size)
        names = [f"member{n}" for n in range(size)]
        together = ",".join(f"{name}=http://127.0.0.1:{ports[2 * n + 1]}" for n, name in enumerate(names))
        members = []
        for n, name in enumerate(names):
            folder = Path(scratch) / name
            folder.mkdir(mode=0o700)
            members.append(
                Server(
                    binary, folder, ports[2 * n], ports[2 * n + 1], name, [f"--initial-cluster={together}"]
                )
            )
            stack.callback(members[-1].kill)
            members[-1].start(wait=False)
        for member in members:
            member.wait_ready()
        yield members


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.servers",
        description="Print the path of a good server binary, getting it if needed.",
    )
    parser.add_argument("server", choices=["etcd"])
    parser.add_argument("--version", help=f"insist on one: {', '.join(PINNED)} (Go), {DEBIANS} (Debian)")
    arguments = parser.parse_args()
    try:
        print(of_version(arguments.version) if arguments.version else etcd())
    except (NoServer, OSError, subprocess.SubprocessError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
