"""Where a store answers: one spelling, judged before anything is sent."""

from __future__ import annotations

import asyncio

import pytest

from controlplane import store
from controlplane.errors import InvalidSettings
from controlplane.floor import folders
from controlplane.settings import StoreSettings
from controlplane.store import endpoint
from controlplane.store.endpoint import on_this_machine, parse_endpoint, unguarded


@pytest.mark.parametrize(
    ("text", "endpoint", "here"),
    [
        ("127.0.0.1:2379", "127.0.0.1:2379", True),
        (" http://localhost:2379 ", "localhost:2379", True),
        ("[::1]:2379", "[::1]:2379", True),
        ("https://etcd-1.example:2379", "etcd-1.example:2379", False),
        ("10.0.0.1:1", "10.0.0.1:1", False),
        ("127x.example:1", "127x.example:1", False),
        ("unix:/run/user/0/hft-1/store:1", "unix:/run/user/0/hft-1/store:1", True),
    ],
)
def test_an_endpoint_has_one_spelling_and_is_on_this_machine_or_not(
    text: str, endpoint: str, here: bool
) -> None:
    assert parse_endpoint(text) == endpoint and on_this_machine(endpoint) is here


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wanted HOST:PORT or unix:/ABSOLUTE/PATH"),
        ("host", 'store endpoint "host": wanted HOST:PORT'),
        (":2379", "wanted HOST:PORT"),
        ("host:", "wanted HOST:PORT"),
        ("host:0", "wanted HOST:PORT"),
        ("host:65536", "wanted HOST:PORT"),
        ("host:²", "wanted HOST:PORT"),
        ("host:" + "9" * 4400, "wanted HOST:PORT"),
        ("unix:store:1", "wanted unix:/ABSOLUTE/PATH"),
        ("unix://store:1", "wanted unix:/ABSOLUTE/PATH"),
        ("unix:/run/", "wanted unix:/ABSOLUTE/PATH"),
        ("unix:/" + "x" * 107, "the path has 108 bytes; a socket's may have 107"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_what_was_wanted(text: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said.replace("[", "\\[")):
        parse_endpoint(text)


def test_a_store_in_plain_text_on_another_machine_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InvalidSettings, match=r'"10\.0\.0\.1:2379": plain text to another machine.*TLS'):
        store.connect("etcd://127.0.0.1:2379,10.0.0.1:2379")
    with pytest.raises(InvalidSettings, match="plain text to another machine"):
        store.connect(["store.example:2379"], StoreSettings(try_s=1))


def test_a_store_on_a_socket_is_named_by_it() -> None:
    async def asked() -> str:
        client = store.connect("etcd://unix:/nowhere/store:1")
        try:
            return str((await client.health()).reason)
        finally:
            await client.close()

    assert "unix:/nowhere/store:1" in asyncio.run(asked())


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("etcd://unix:/run/store:1", []),
        ("memory://x", []),
        ("etcd://127.0.0.1:2379,unix:/run/store:1,localhost:2380", ["127.0.0.1:2379", "localhost:2380"]),
        ("127.0.0.1:2379", ["127.0.0.1:2379"]),
        ("consul://127.0.0.1:8500?token_file=/etc/hft/token", []),
        ("etcd://127.0.0.1:2379?ca_file=/a&cert_file=/b&key_file=/c", []),
        ("etcd://127.0.0.1:2379?ca_file=/a", ["127.0.0.1:2379"]),
    ],
)
def test_which_endpoints_are_ports_that_every_user_reaches(where: str, found: list[str]) -> None:
    assert unguarded(where) == found


def test_a_token_file_in_a_folder_of_any_name_is_found_again_in_the_address() -> None:
    token = "/srv/a & b?=%/consul/token"
    said = {"kind": "consul", "endpoints": ["unix:/run/x.sock"], "token_file": token}
    assert endpoint.split(folders.url_of(said)) == ("consul", ["unix:/run/x.sock"], {"token_file": token})
    assert endpoint.split("127.0.0.1:2379") == ("", ["127.0.0.1:2379"], {})
