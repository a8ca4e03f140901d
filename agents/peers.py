"""Who the peers of a daemon are: `PeerNews` tells it what discovery has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

from agents.bus import Bus
from agents.supervisor.supervisor import Instance
from controlplane import registry
from controlplane.site.view import SiteView
from hftd.wire import control


class PeerNews:
    """Tells each daemon of this host who serves what it uses; the bus sends only what is news to it."""

    def __init__(
        self,
        bus: Bus,
        find: Callable[[str], Instance | None],
        site: Callable[[], SiteView | None],
        peers: Callable[[str], Sequence[registry.Serving]],
    ) -> None:
        """`peers`: Discovery.peers of that view."""
        self._bus, self._find, self._site, self._peers = bus, find, site, peers

    def tell(self, name: str) -> None:
        site, instance = self._site(), self._find(name)
        if site is None or instance is None or instance.desired is None:
            return
        for service in instance.desired.spec.uses:
            spec = site.specs.get(service)
            self._bus.peers(name, service, spec.daemon if spec else "", on_wire(self._peers(service)))

    def tell_all(self) -> None:
        for name in self._bus.reports:
            self.tell(name)

    def tell_users(self, services: AbstractSet[str]) -> None:
        """Tell the daemons that use one of these services, or are of one (its spec says what it uses)."""
        for name in self._bus.reports if services else ():
            instance = self._find(name)
            if instance is None or instance.desired is None:
                continue
            spec = instance.desired.spec
            if spec.name in services or not services.isdisjoint(spec.uses):
                self.tell(name)


def on_wire(peers: Iterable[registry.Serving]) -> list[control.Peer]:
    return [control.Peer(each.instance, dict(each.endpoints), each.role, each.epoch) for each in peers]
