"""Tells each daemon of this host which token the store holds for each group: a receiver believes no token far
above it (docs/protocol.md, Fencing).
"""

from __future__ import annotations

from collections.abc import Callable

from agents.bus import Bus
from controlplane.host import system_clock
from controlplane.model import bounds
from controlplane.site.view import SiteView
from hftd.wire.codec import TokenOnWire


class GroupTokens:
    def __init__(self, bus: Bus, site: Callable[[], SiteView | None]) -> None:
        self._bus, self._site = bus, site

    def tell(self, name: str) -> None:
        site = self._site()
        if site is not None:
            self._bus.tokens(name, tokens_of(site))

    def tell_all(self) -> None:
        for name in list(self._bus.reports):
            self.tell(name)


def tokens_of(site: SiteView) -> list[TokenOnWire]:
    """In order of group; one from the future, which no store gave out, is left out."""
    now_ms = system_clock.latest_wall_ns() // 1_000_000
    return [
        TokenOnWire(found.incarnation, group, found.epoch)
        for group, found in sorted(site.epochs.items())
        if bounds.believable(found.incarnation, now_ms)
    ]
