"""What a floor's Consul opens on loopback when it is asked to: DNS, and the HTTP that its UI comes with.

`hftctl up --consul-dns PORT --consul-ui PORT` writes them down in the site folder beside Consul's own files,
and every start of it reads them there. DNS carries no token: Consul answers it with one that may read
services and nodes and nothing else, made here. The UI's port answers nobody without a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from controlplane import store
from controlplane.errors import HftctlError, InvalidInput, Unavailable
from controlplane.host import files

FILE = "doors.json"
DNS_PORT, UI_PORT = 8600, 8500
"""Consul's own, where 0 was asked for."""
POLICY = "hft-dns"
RULES = 'service_prefix "" { policy = "read" }\nnode_prefix "" { policy = "read" }\n'
TRIES = 100
WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Doors:
    """Ports of loopback; None: closed."""

    dns: int | None = None
    ui: int | None = None

    def ports(self) -> dict[str, int]:
        asked = {"--consul-dns": (self.dns, DNS_PORT), "--consul-ui": (self.ui, UI_PORT)}
        return {name: port or usual for name, (port, usual) in asked.items() if port is not None}


CLOSED = Doors()


def write(folder: Path, doors: Doors) -> None:
    """For every start from now on. Raises OSError."""
    said = {"dns": doors.ports().get("--consul-dns"), "ui": doors.ports().get("--consul-ui")}
    files.replace(folder / FILE, json.dumps(said).encode(), files.Durability.POWER, mode=0o600)


def read(folder: Path) -> Doors:
    """Closed where nothing, or nothing that can be read, is written."""
    try:
        found = msgspec.convert(files.read_json(folder / FILE) or {}, Doors)
    except (msgspec.ValidationError, InvalidInput):
        return CLOSED
    return found if all(0 < port < 1 << 16 for port in found.ports().values()) else CLOSED


def configure(configuration: dict[str, Any], doors: Doors) -> None:
    """Open them in a server's configuration."""
    if doors.dns:
        configuration["ports"]["dns"] = doors.dns
        configuration["addresses"]["dns"] = "127.0.0.1"
    if doors.ui:
        configuration["ports"]["http"] = doors.ui
        configuration["addresses"]["http"] += " 127.0.0.1"
        configuration["ui_config"] = {"enabled": True}


async def answer_dns(url: str) -> None:
    """Let the Consul at `url` answer DNS: with a token of its own, made anew at each start.

    Raises:
        HftctlError: it could not be done; DNS answers nothing.
    """
    client = store.connect(url)
    try:
        assert isinstance(client, _consul_store())
        ask = client.calls.ask
        body = json.dumps({"Name": POLICY, "Rules": RULES}).encode()
        found = await ask("GET", f"acl/policy/name/{POLICY}", good=frozenset({200, 404, 403}))
        if found.status != 200 or found.body.strip() == b"null":
            with contextlib.suppress(Unavailable):  # its answer may be lost, and it be there
                await ask("PUT", "acl/policy", body=body, good=frozenset({200}))
        token = json.dumps({"Description": "DNS of the floor", "Policies": [{"Name": POLICY}]}).encode()
        made = await ask("PUT", "acl/token", body=token, good=frozenset({200}))
        secret = json.dumps({"Token": json.loads(made.body)["SecretID"]}).encode()
        done = await ask("PUT", "agent/token/dns", body=secret, good=frozenset({200, 400, 404}))
        if done.status != 200:  # before 1.18: the token of whoever shows none, which reads no more than this
            await ask("PUT", "agent/token/default", body=secret, good=frozenset({200}))
    finally:
        await client.close()


def _consul_store() -> type[Any]:
    from controlplane.store.consul import ConsulStore

    return ConsulStore


async def open_all(url: str, folder: Path) -> None:
    """What is left to do once Consul answers; tried until it is done. Raises HftctlError."""
    if read(folder).dns is None:
        return
    for left in reversed(range(TRIES)):
        try:
            await answer_dns(url)
            return
        except HftctlError:
            if not left:
                raise
            await asyncio.sleep(WAIT_S)
