"""Fence and Attach as a process of the site signs them, for tests that send their own."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from controlplane.host import secret
from hftd import bus
from hftd.engine.orders import claims
from hftd.wire import orders

Claim = TypeVar("Claim", orders.Fence, orders.Attach)


def macs(site_dir: Path) -> claims.Macs:
    """As everybody has them who can read the secret in that folder; made when it is not there yet."""
    return claims.Macs(secret.derived(secret.read_or_make(site_dir), claims.PURPOSE))


def signed(claim: Claim, link: bytes | bus.link.Dealer, site_dir: Path) -> Claim:
    """The claim as it is good over this link, and no other."""
    identity = link if isinstance(link, bytes) else link.identity
    if isinstance(claim, orders.Fence):
        return macs(site_dir).fence(claim, identity)
    return macs(site_dir).attach(claim, identity)


def site_of(link: bus.link.Dealer) -> Path:
    """The site folder of the one daemon (daemons.py) that this link is connected to."""
    assert link.endpoint is not None
    return Path(link.endpoint.removeprefix("ipc://")).parent / "site"
