"""Consul as a floor embeds it: one agent in server mode, for this site folder alone.

Promises: it is asked over a unix socket in the floor's run folder (0600) and over no port, unless the
operator opens one (consul_doors.py); without the token, a file of mode 0600, it answers nothing (ACL default
deny). Consul has no way to do without the ports of server RPC and gossip, so these two are open on loopback,
and closed to whoever has not the floor's own certificates (TLS, verify_incoming) and gossip key. Its data,
keys and configuration are in the site folder's `consul/`, 0700.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane.errors import InUse, InvalidSettings
from controlplane.floor import consul_doors
from controlplane.floor.embedded import Choice, Launch
from controlplane.host import files, locks
from controlplane.store.consul import versions

SOCKET = "consul.sock"
DATACENTER = "hft"
NODE = "floor"
FOLDER = "consul"
TOKEN, CONFIGURATION = "token", "config.json"
TRANSACTION_BYTES_MAX = 2 << 20
"""The port's 512 KiB of values are 700 KB as a transaction carries them; Consul's own limit is 512 KiB."""
PORTS_FROM = 20_000
"""Below the range that the kernel gives to whoever asks for any port: what is free at the start is free when
the store is started again.
"""
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_SAYS = re.compile(r"Consul v\d+\.\d+\.\d+")


class Consul:
    """Consul as a floor embeds it (embedded.py)."""

    kind = "consul"
    stop_grace_s = 8.0
    """It writes its log and index out before it goes."""

    def choose(self) -> Choice:
        return choose()

    def chosen(self, path: str) -> Choice:
        version, fault = look(path)
        if version is None:
            raise InvalidSettings(f"{path}: {fault}")
        return Choice(path, version, False, f"store: consul {version} ({path})")

    def prepare(self, choice: Choice, site_dir: Path) -> None:
        for folder in (site_dir / FOLDER, data_dir(site_dir)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def launch(self, choice: Choice, site_dir: Path, run_dir: Path, at: Sequence[str] = ()) -> Launch:
        """Raises InUse: there are no free ports."""
        self.prepare(choice, site_dir)
        endpoint = at[0] if at else f"unix:{run_dir / SOCKET}"
        folder = site_dir / FOLDER
        content = json.dumps(configuration(folder, endpoint.removeprefix("unix:")), indent=1)
        files.replace(folder / CONFIGURATION, content.encode(), files.Durability.POWER, mode=0o600)
        command = (choice.path, "agent", "-config-file", str(folder / CONFIGURATION))
        return Launch(command, (endpoint,), run_dir, folder / TOKEN)

    async def ready(self, url: str, site_dir: Path) -> None:
        await consul_doors.open_all(url, site_dir / FOLDER)

    def holder(self, version: str, site_dir: Path) -> str:
        pid = locks.flocked_by(data_dir(site_dir) / "raft" / "raft.db")
        return f"pid {pid}" if pid else ""


def data_dir(site_dir: Path) -> Path:
    return site_dir / FOLDER / "data"


def choose(environ: Mapping[str, str] = os.environ) -> Choice:
    """HFT_CONSUL, else the one on PATH, else what `make consul` has built.

    Raises:
        InvalidSettings: HFT_CONSUL names one that must not be used, or there is none at all.
    """
    if named := environ.get("HFT_CONSUL"):
        version, fault = look(named)
        if version is None or fault:
            raise InvalidSettings(f"HFT_CONSUL={named}: {fault}")
        return Choice(named, version, False, f"store: consul {version} (HFT_CONSUL)")
    faults = []
    for path in _candidates(environ):
        version, fault = look(path)
        if version is not None and not fault:
            return Choice(path, version, False, f"store: consul {version} ({path})")
        faults.append(f"{path}: {fault}")
    raise InvalidSettings(
        "no Consul for --store consul: put consul on PATH, name it in HFT_CONSUL, or `make consul` builds "
        f"one (needs Go){'; passed over: ' + '; '.join(faults) if faults else ''}"
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    if on_path := shutil.which("consul", path=environ.get("PATH")):
        yield on_path
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hftctl"
    yield from (str(path) for path in sorted(cache.glob("consul-*/consul"), reverse=True))


def look(path: str) -> tuple[str | None, str]:
    """Ask a binary for its version: (version, why it must not be used or "")."""
    try:
        answer = subprocess.run([path, "version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        return None, f"cannot be run ({exc})"
    said = _SAYS.search(answer.stdout)
    version = versions.parse(said[0]) if said else None
    if version is None:
        needed = f"need Consul {versions.NEEDED}"
        return None, f'reports "{answer.stdout.strip()[:60]}" for its version, {needed}'
    return version, versions.fault(version)


# --- what it is told ----------------------------------------------------------------------------------------


def configuration(folder: Path, socket_path: str) -> dict[str, Any]:
    """Of a server whose keys are in the folder; they are made when missing."""
    before = files.read_json(folder / CONFIGURATION) or {}
    token = _kept(folder / TOKEN, lambda: str(uuid.uuid4()))
    gossip = _kept(folder / "gossip.key", lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    if not (folder / "server.pem").exists():
        make_certificates(folder)
    made: dict[str, Any] = {
        "server": True,
        "bootstrap_expect": 1,
        "datacenter": DATACENTER,
        "node_name": NODE,
        "data_dir": str(folder / "data"),
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "addresses": {"http": f"unix://{socket_path}"},
        "unix_sockets": {"mode": "0600"},
        "ports": {
            **dict.fromkeys(("dns", "grpc", "grpc_tls", "https", "serf_wan"), -1),
            **free_ports(("server", "serf_lan"), before.get("ports") or {}),
        },
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"initial_management": token, "agent": token},
        },
        "encrypt": gossip,
        "tls": {
            "internal_rpc": {
                "ca_file": str(folder / "ca.pem"),
                "cert_file": str(folder / "server.pem"),
                "key_file": str(folder / "server.key"),
                "verify_incoming": True,
                "verify_outgoing": True,
                "verify_server_hostname": True,
            }
        },
        "performance": {"raft_multiplier": 1},
        "session_ttl_min": "1s",
        "limits": {"txn_max_req_len": TRANSACTION_BYTES_MAX},
        "disable_update_check": True,
        "leave_on_terminate": False,
        "log_level": "info",
    }
    consul_doors.configure(made, consul_doors.read(folder))
    return made


def _kept(path: Path, make: Callable[[], str]) -> str:
    """A secret in a file of mode 0600, made once."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = make()
        files.replace(path, made.encode() + b"\n", files.Durability.POWER, mode=0o600)
        return made


def free_ports(names: Sequence[str], before: Mapping[str, Any]) -> dict[str, int]:
    """A port of loopback for each name, free for TCP and UDP: the one it had before where that is free.

    Raises:
        InUse: there is none.
    """
    try:
        last = int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        last = 32_768
    found: dict[str, int] = {}
    for name in names:
        start = PORTS_FROM + secrets.randbelow(max(1, last - PORTS_FROM))
        candidates = [before[name]] if isinstance(before.get(name), int) and before[name] > 0 else []
        candidates += [*range(start, last), *range(PORTS_FROM, start)]
        port = next((each for each in candidates if each not in found.values() and _free(each)), None)
        if port is None:
            raise InUse(f"no port of loopback is free from {PORTS_FROM} to {last}, and Consul needs two")
        found[name] = port
    return found


def _free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as one:
            if kind == socket.SOCK_STREAM:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def make_certificates(folder: Path) -> None:
    """An authority of this floor alone, and the server's certificate by it; the authority's key is kept
    nowhere, as nobody else ever gets a certificate. Ten years, as the floor's data.
    """
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    ends = begins + datetime.timedelta(days=3650)
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = (
        x509.CertificateBuilder()
        .subject_name(name("hftctl floor"))
        .issuer_name(name("hftctl floor"))
        .public_key(authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    server = (
        x509.CertificateBuilder()
        .subject_name(name(f"server.{DATACENTER}.consul"))
        .issuer_name(authority.subject)
        .public_key(server_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(f"server.{DATACENTER}.consul"), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for file, content in (
        ("ca.pem", authority.public_bytes(pem)),
        ("server.key", key),
        ("server.pem", server.public_bytes(pem)),  # last: the sign that all are there
    ):
        files.replace(folder / file, content, files.Durability.POWER, mode=0o600)
