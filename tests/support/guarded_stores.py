"""Real stores that want to know who asks: with users or tokens, or with TLS and client certificates."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from controlplane.settings import StoreSettings
from tests.support import real_stores, servers
from tests.support.real_stores import RealStore

HERE = "127.0.0.1"
CONSUL_RULES = 'key_prefix "hft/" { policy = "write" } session_prefix "" { policy = "write" }'


def issue(authority: trustme.CA, folder: Path, name: str, host: str = HERE) -> tuple[Path, Path]:
    """A certificate of this machine and its key, as PEM files that are replaced whole."""
    certificate = authority.issue_cert(host)
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    for file, pem in (
        (key_file, certificate.private_key_pem),
        (cert_file, certificate.cert_chain_pems[0]),
    ):
        fresh = file.with_suffix(".new")
        fresh.write_bytes(pem.bytes())
        fresh.chmod(0o600)
        fresh.replace(file)
    return cert_file, key_file


@dataclass
class Identities:
    """A store that takes only whom it knows, and what makes its users (`hft` on etcd, a token on Consul)."""

    real: RealStore
    folder: Path
    consul_rules: str = CONSUL_RULES

    @property
    def secret_file(self) -> Path:
        return self.folder / "secret"

    @property
    def settings(self) -> StoreSettings:
        """Of the client; its secret is in a file that `tell` writes."""
        if self.real.kind == "etcd":
            return StoreSettings(user="hft", password_file=self.secret_file)
        return StoreSettings(token_file=self.secret_file)

    def tell(self, secret: str) -> None:
        """What the client finds in its file from now on; replaced whole, as operators' tools do."""
        fresh = self.secret_file.with_suffix(".new")
        fresh.write_text(secret + "\n")
        fresh.replace(self.secret_file)

    def made(self) -> str:
        """A new secret that the store takes: a password in place of the old one, or one more token."""
        if self.real.kind == "etcd":
            password = uuid.uuid4().hex
            self._auth("user/changepw", name="hft", password=password)
            return password
        name = uuid.uuid4().hex
        self.real.ask("PUT", "v1/acl/policy", {"Name": name, "Rules": self.consul_rules})
        made = json.loads(self.real.ask("PUT", "v1/acl/token", {"Policies": [{"Name": name}]}))
        return str(made["SecretID"])

    def forget(self, secret: str) -> None:
        """The store does not take this one any more, as if it had expired. On etcd, making another did that
        already, and the tokens made with it end as well.
        """
        if self.real.kind == "consul":
            for each in json.loads(self.real.ask("GET", "v1/acl/tokens")):
                if each.get("SecretID") == secret:
                    self.real.ask("DELETE", f"v1/acl/token/{each['AccessorID']}")

    def _auth(self, path: str, **fields: object) -> None:
        """As root: the one request of ours that carries a token of etcd's."""
        self.real.ask("POST", f"v3/auth/{path}", fields, token=self.root_token())

    def root_token(self) -> str:
        said = self.real.ask("POST", "v3/auth/authenticate", {"name": "root", "password": self.real.master})
        return str(json.loads(said)["token"])


@contextlib.contextmanager
def with_identities(
    kind: str,
    folder: Path,
    *,
    token_ttl_s: int = 300,
    etcd_prefix: str = "hft/",
    consul_rules: str = CONSUL_RULES,
) -> Iterator[Identities]:
    """`token_ttl_s`: how long etcd believes a token after its last use. `etcd_prefix`: what its user may read
    and write; `consul_rules`: of the tokens.
    """
    master = str(uuid.uuid4())
    if kind == "consul":
        acl = {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": master}}
        acl |= {"token_ttl": "0s", "policy_ttl": "0s"}
        with real_stores.running(kind, more={"acl": acl}, token=master) as real:
            real.master = master
            made = Identities(real, folder, consul_rules)
            made.tell(made.made())
            yield made
        return
    with real_stores.running(kind, extra=["--auth-token-ttl", str(token_ttl_s)]) as real:
        for path, fields in (
            ("user/add", {"name": "root", "password": master}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "hft", "password": "first"}),
            ("role/add", {"name": "hft"}),
            ("role/grant", {"name": "hft", "perm": _read_and_write(etcd_prefix)}),
            ("role/grant", {"name": "hft", "perm": {"permType": "READ", "key": _base64(b"hft/")}}),
            ("user/grant", {"user": "hft", "role": "hft"}),
            ("enable", {}),
        ):
            real.ask("POST", f"v3/auth/{path}", fields)
        real.master = master
        made = Identities(real, folder)
        made.tell("first")
        yield made


def _read_and_write(prefix: str) -> dict[str, str]:
    """The right to what is under a prefix, as the gateway wants it."""
    begin = prefix.encode()
    behind = begin[:-1] + bytes([begin[-1] + 1])
    return {"permType": "READWRITE", "key": _base64(begin), "range_end": _base64(behind)}


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()


@dataclass
class Secured:
    """A store with TLS that wants a certificate of its clients."""

    real: RealStore
    endpoint: str
    folder: Path
    authority: trustme.CA

    @property
    def url(self) -> str:
        return f"{self.real.kind}://{self.endpoint}"

    @property
    def settings(self) -> StoreSettings:
        return StoreSettings(
            ca_file=self.folder / "ca.pem",
            cert_file=self.folder / "client.pem",
            key_file=self.folder / "client.key",
        )

    def renew(self) -> None:
        """Another certificate for the client, in the same files."""
        issue(self.authority, self.folder, "client")

    def renew_the_servers(self) -> None:
        """etcd reads its files at each handshake; Consul when it is told to."""
        issue(self.authority, self.folder, "server")
        if self.real.kind == "consul":
            assert self.real.server.process is not None
            self.real.server.process.send_signal(signal.SIGHUP)


@contextlib.contextmanager
def with_certificates(kind: str, folder: Path) -> Iterator[Secured]:
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    cert_file, key_file = issue(authority, folder, "server")
    if kind == "etcd":
        tls = servers.Tls(cert_file, key_file, ca_file)
        with real_stores.running(kind, tls=tls) as real:
            made = Secured(real, real.server.endpoint, folder, authority)
            made.renew()
            yield made
        return
    (port,) = servers.free_ports(1)
    https = {"ca_file": str(ca_file), "cert_file": str(cert_file), "key_file": str(key_file)}
    more = {"tls": {"https": {**https, "verify_incoming": True}}}
    with real_stores.running(kind, more=more, ports={"https": port}) as real:
        made = Secured(real, f"{HERE}:{port}", folder, authority)
        made.renew()
        yield made
