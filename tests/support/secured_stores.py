"""Stores as a firm runs them, on loopback: TLS that wants the client's certificate, and on Consul a token
too. For tests of floors that use a store which is there already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.support import consul_servers, servers
from tests.support.guarded_stores import issue

HERE = "127.0.0.1"
TOKEN = "5a7d4f0e-6c1b-4d53-9d2c-0b1a7c3e9f10"


@dataclass(frozen=True)
class Secured:
    kind: str
    endpoint: str
    folder: Path
    server: servers.Server | consul_servers.Server

    @property
    def files(self) -> dict[str, Path]:
        """Option of `hftctl up` -> its file."""
        names = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}
        if self.kind == "consul":
            names["token"] = "token"
        return {f"--store-{name}": self.folder / file for name, file in names.items()}

    def words(self, **instead: Path) -> list[str]:
        """The command line; `instead`: other files, by the option's last word."""
        files = self.files | {f"--store-{name}": path for name, path in instead.items()}
        given = [word for name, path in files.items() for word in (name, str(path))]
        return ["--store", self.kind, "--store-endpoints", self.endpoint, *given]

    @property
    def environment(self) -> dict[str, str]:
        files = {
            name.replace("--store-", "HFT_STORE_").upper(): str(path) for name, path in self.files.items()
        }
        return {"HFT_STORE_ENDPOINTS": f"{self.kind}://{self.endpoint}", **files}

    @property
    def url(self) -> str:
        """For store.connect."""
        named = "&".join(
            f"{name.removeprefix('--store-')}_file={path}" for name, path in sorted(self.files.items())
        )
        return f"{self.kind}://{self.endpoint}?{named}"


@contextlib.contextmanager
def secured(kind: str, folder: Path) -> Iterator[Secured]:
    """One that runs; its files are in the folder."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issue(authority, folder, "client")
    cert_file, key_file = issue(authority, folder, "server")
    if kind == "etcd":
        with servers.running(servers.etcd(), tls=servers.Tls(cert_file, key_file, folder / "ca.pem")) as etcd:
            yield Secured(kind, etcd.endpoint, folder, etcd)
        return
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "token").chmod(0o600)
    (port,) = servers.free_ports(1)
    tls = {
        "ca_file": str(folder / "ca.pem"),
        "cert_file": str(cert_file),
        "key_file": str(key_file),
        "verify_incoming": True,
    }
    more = {
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "tokens": {"initial_management": TOKEN, "agent": TOKEN},
        },
        "tls": {"https": tls},
    }
    with consul_servers.running(consul_servers.consul(), more, token=TOKEN, ports={"https": port}) as consul:
        yield Secured(kind, f"{HERE}:{port}", folder, consul)
