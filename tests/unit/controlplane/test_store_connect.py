"""The door to the store: what it takes, what it refuses in one line, and what it does not load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane import store
from controlplane.errors import InvalidSettings
from controlplane.settings import StoreSettings
from controlplane.store.etcd import calls


def test_etcd_is_reached_by_url_list_or_bare_addresses() -> None:
    async def endpoints(where: str | list[str]) -> tuple[str, ...]:
        client = store.connect(where)
        found = (await client.health()).endpoints if client.kind == "memory" else client.calls.addresses  # type: ignore[attr-defined]
        await client.close()
        return found

    wanted = ("127.0.0.1:1", "127.0.0.1:2")
    for where in (
        "etcd://127.0.0.1:1,127.0.0.1:2",
        "127.0.0.1:1,127.0.0.1:2",
        ["http://127.0.0.1:1", "127.0.0.1:2"],
    ):
        assert asyncio.run(endpoints(where)) == wanted


def test_two_clients_of_one_memory_name_share_it_and_another_name_does_not() -> None:
    async def story() -> None:
        one, same, other = (store.connect(f"memory://{name}") for name in ("shared", "shared", "alone"))
        await one.put("hft/a", b"1")
        assert await same.get("hft/a") is not None
        assert await other.get("hft/a") is None

    asyncio.run(story())


@pytest.mark.parametrize(
    "where", ["zookeeper://a:1", "etcd://", "etcd://nohost", "etcd://a:b", [], "consul://a:1"]
)
def test_an_address_that_is_none_is_refused_with_what_was_wanted(where: str | list[str]) -> None:
    with pytest.raises(InvalidSettings, match="wanted"):
        store.connect(where)


def test_settings_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    for settings in (
        {"try_s": 0},
        {"probe_every_s": 100},
        {"user": "root"},
        {"password_file": tmp_path},
        {"cert_file": tmp_path},
        {"cert_file": tmp_path, "key_file": tmp_path},
    ):
        with pytest.raises(InvalidSettings, match="wanted"):
            StoreSettings(**settings)  # type: ignore[arg-type]


def test_a_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"missing\.pem"):
        store.connect("etcd://127.0.0.1:1", StoreSettings(ca_file=tmp_path / "missing.pem"))


def test_a_range_ends_right_after_its_prefix() -> None:
    end = calls.range_end("hft/lab/")
    assert b"hft/lab/\xff\xff" < end <= b"hft/lab0"
    assert calls.range_end("") == b"\0"


def test_the_port_alone_does_not_load_grpc() -> None:
    """`hftctl status` imports names of the port and has 200 ms for everything."""
    code = (
        "import sys, controlplane.store, controlplane.floor.etcd, controlplane.site.view; "
        "sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
