"""TLS to a real Consul: checked both ways, what is wrong named, certificates renewed without a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trustme

from controlplane.errors import InvalidSettings, Unavailable
from controlplane.settings import StoreSettings
from controlplane.store import Committed, consul
from tests.support import consul_servers, servers
from tests.support.guarded_stores import issue
from tests.support.stores import SOON_S

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]
HERE = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@pytest.fixture
def strict(tmp_path: Path, authority: trustme.CA) -> Iterator[str]:
    """The HTTPS endpoint of a server that wants a certificate of its clients too."""
    cert_file, key_file = issue(authority, tmp_path, "server")
    (port,) = servers.free_ports(1)
    more = {
        "tls": {
            "https": {
                "ca_file": str(tmp_path / "ca.pem"),
                "cert_file": str(cert_file),
                "key_file": str(key_file),
                "verify_incoming": True,
            }
        }
    }
    with consul_servers.running(consul_servers.consul(), more, ports={"https": port}):
        yield f"{HERE}:{port}"


async def test_a_server_is_checked_and_is_shown_our_certificate_and_a_renewed_one_is_used(
    strict: str, tmp_path: Path, authority: trustme.CA
) -> None:
    ca_file = tmp_path / "ca.pem"
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    for settings, wanted in (
        (StoreSettings(ca_file=stranger), "its certificate is not believed"),
        (StoreSettings(ca_file=ca_file), "certificate required"),
        (StoreSettings(), "HTTP 400"),
    ):
        client = consul.ConsulStore([strict], settings)
        with pytest.raises(Exception, match=wanted) as caught:
            await client.put("hft/a", b"1")
        assert "\n" not in str(caught.value) and strict in str(caught.value)
        assert not (await client.health()).healthy
        await client.close()

    cert_file, key_file = issue(authority, tmp_path, "client")
    settings = StoreSettings(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    client = consul.ConsulStore([strict], settings)
    async with aclosing(client.watch("hft/")) as watch:
        assert isinstance(await client.put("hft/a", b"1"), Committed)
        async with asyncio.timeout(SOON_S):
            await anext(watch)
        opened = client.calls.servers[0].opened
        issue(authority, tmp_path, "client")
        assert isinstance(await client.put("hft/a", b"2"), Committed)
        assert client.calls.servers[0].opened > opened, "a connection with the new certificate"
    await client.close()


def test_files_that_are_no_certificates_are_refused_by_name(tmp_path: Path) -> None:
    wrong = tmp_path / "ca.pem"
    wrong.write_text("no certificate")
    for settings in (StoreSettings(ca_file=wrong), StoreSettings(ca_file=tmp_path / "none.pem")):
        with pytest.raises(InvalidSettings, match=r"(ca|none)\.pem"):
            consul.ConsulStore(["127.0.0.1:8501"], settings)
    fifo = tmp_path / "fifo.pem"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(InvalidSettings, match=r"fifo\.pem cannot be read: not a regular file"):
        consul.ConsulStore(["127.0.0.1:8501"], StoreSettings(ca_file=fifo))


def test_plain_text_to_another_machine_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidSettings, match="plain text to another machine"):
        consul.ConsulStore(["consul.example:8500"])


async def test_a_port_that_speaks_no_tls_is_named(tmp_path: Path, authority: trustme.CA) -> None:
    del authority
    with consul_servers.running(consul_servers.consul()) as server:
        client = consul.ConsulStore([server.endpoint], StoreSettings(ca_file=tmp_path / "ca.pem"))
        with pytest.raises(Unavailable, match=r"WRONG_VERSION_NUMBER|wrong version|record layer") as caught:
            await client.put("hft/a", b"1")
        assert not caught.value.ambiguous
        await client.close()
