"""TLS to a real etcd: checked both ways, what is wrong named, certificates renewed without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import trustme

from controlplane.errors import Unavailable
from controlplane.settings import StoreSettings
from controlplane.store import Committed, etcd
from tests.support import servers
from tests.support.guarded_stores import issue
from tests.support.stores import SOON_S, put_until_done

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("one_loop")]
HERE = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@pytest.fixture
def strict(binary: Path, tmp_path: Path, authority: trustme.CA) -> Iterator[servers.Server]:
    """A server that wants a certificate of its clients too."""
    with servers.running(
        binary, tls=servers.Tls(*issue(authority, tmp_path, "server"), tmp_path / "ca.pem")
    ) as server:
        yield server


async def what_is_wrong(server: servers.Server, settings: StoreSettings) -> str:
    """The text of the error that a write gives; health must say the same, and neither that it may have been
    applied.
    """
    client = etcd.EtcdStore([server.endpoint], settings)
    try:
        with pytest.raises(Unavailable) as caught:
            await client.put("hft/a", b"1")
        assert not caught.value.ambiguous
        health = await client.health()
        assert not health.healthy and "no connection" in health.reason
        return str(caught.value)
    finally:
        await client.close()


async def test_a_server_with_tls_is_checked_against_the_authority(
    binary: Path, tmp_path: Path, authority: trustme.CA
) -> None:
    with servers.running(binary, tls=servers.Tls(*issue(authority, tmp_path, "server"))) as server:
        client = etcd.EtcdStore([server.endpoint], StoreSettings(ca_file=tmp_path / "ca.pem"))
        async with aclosing(client.watch("hft/")) as watch:
            assert isinstance(await client.put("hft/a", b"1"), Committed)
            assert (await client.get("hft/a")).value == b"1"  # type: ignore[union-attr]
            async with asyncio.timeout(SOON_S):
                await anext(watch)
        assert (await client.health()).healthy
        await client.close()

        stranger = tmp_path / "stranger.pem"
        trustme.CA().cert_pem.write_to_path(stranger)
        assert "CERTIFICATE_VERIFY_FAILED" in await what_is_wrong(server, StoreSettings(ca_file=stranger))
        assert "store.ca_file" in await what_is_wrong(server, StoreSettings())


async def test_a_server_of_another_name_is_refused(
    binary: Path, tmp_path: Path, authority: trustme.CA
) -> None:
    with servers.running(
        binary, tls=servers.Tls(*issue(authority, tmp_path, "server", "etcd.example"))
    ) as server:
        assert HERE in await what_is_wrong(server, StoreSettings(ca_file=tmp_path / "ca.pem"))


async def test_tls_to_a_server_without_is_named(
    server: servers.Server, tmp_path: Path, authority: trustme.CA
) -> None:
    del authority  # its file is what is used
    assert "without TLS" in await what_is_wrong(server, StoreSettings(ca_file=tmp_path / "ca.pem"))


async def test_a_server_that_asks_its_clients_is_shown_their_certificate(
    strict: servers.Server, tmp_path: Path, authority: trustme.CA
) -> None:
    ca_file = tmp_path / "ca.pem"
    assert "store.cert_file" in await what_is_wrong(strict, StoreSettings(ca_file=ca_file))
    cert_file, key_file = issue(authority, tmp_path, "client")
    client = etcd.EtcdStore(
        [strict.endpoint], StoreSettings(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    )
    assert isinstance(await client.put("hft/a", b"1"), Committed)
    await client.close()


async def test_a_renewed_certificate_is_shown_at_the_next_connection(
    strict: servers.Server, tmp_path: Path, authority: trustme.CA
) -> None:
    cert_file, key_file = issue(trustme.CA(), tmp_path, "client")  # as good as an expired one
    settings = StoreSettings(ca_file=tmp_path / "ca.pem", cert_file=cert_file, key_file=key_file)
    client = etcd.EtcdStore([strict.endpoint], settings)
    with pytest.raises(Unavailable):
        await client.put("hft/a", b"1")
    issue(authority, tmp_path, "client")
    assert isinstance(await client.put("hft/a", b"1"), Committed)

    # Gone for a moment while it is renewed: the last one is shown once more.
    cert_file.rename(tmp_path / "away")
    strict.kill()
    await asyncio.to_thread(strict.start)
    await put_until_done(client, "hft/a", b"2")
    await client.close()
