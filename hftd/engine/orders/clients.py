"""Which link is which strategy's: riskd is told by each strategy's hello, and remembers.

Pure. A service has one process at a time, and the one that said hello last speaks for it: a restarted one is
a new link, and what its predecessor had working is nobody's. One that has not said hello for `silent_ns` is
gone. Who asks: daemons/riskd.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """The process that speaks for one strategy."""

    service: str
    instance: str
    link: bytes
    heard_ns: int


class Clients:
    def __init__(self, silent_ns: int) -> None:
        self.silent_ns = silent_ns
        self._by_service: dict[str, Client] = {}

    def __repr__(self) -> str:
        return f"<Clients {', '.join(sorted(self._by_service)) or 'none'}>"

    def hello(self, service: str, instance: str, link: bytes, now_ns: int) -> Client | None:
        """This link speaks for the service from now on; returns whose place it takes, if it was another."""
        before = self._by_service.get(service)
        self._by_service[service] = Client(service, instance, link, now_ns)
        return before if before is not None and before.link != link else None

    def link_of(self, service: str) -> bytes | None:
        known = self._by_service.get(service)
        return None if known is None else known.link

    def forget_silent(self, now_ns: int) -> list[Client]:
        """Drop those that are gone, and say which they were."""
        gone = [each for each in self._by_service.values() if now_ns - each.heard_ns > self.silent_ns]
        for each in gone:
            del self._by_service[each.service]
        return gone
