"""Ask the floor: any agent of this machine answers for the whole site, over its unix socket, from memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from controlplane.cli import by_name
from controlplane.cli.output import ASK_TIMEOUT_S
from controlplane.errors import FloorUnreachable, InvalidInput, Refused
from controlplane.floor import folders
from controlplane.http import unix

if TYPE_CHECKING:
    from controlplane.site import document

LIVE = "/live"
EXIT_CODES = {"succeeded": 0, "refused": 1, "failed": 1, "cancelled": 1, "unknown": 4}
"""Of a verb that changes something, by how its operation ended."""


class NoFloor(FloorUnreachable):
    """None runs in the site folder."""


class Floor:
    """The floor of one site folder, as its agents know it."""

    def __init__(self, site_dir: Path | None, timeout_s: float = ASK_TIMEOUT_S) -> None:
        """Raises InUse: it is another user's. NoFloor: none runs there."""
        self.folders = folders.Folders(site_dir or folders.default_site_dir())
        self.timeout_s = timeout_s
        self.folders.require_ours()
        found = self.folders.running()
        if found is None:
            raise NoFloor(f"no floor runs in {self.folders.site_dir} (start one with: hftctl up)")
        self.hosts: list[str] = list(found.get("hosts", ()))
        self.run_dir = Path(found["run_dir"]) if "run_dir" in found else self.folders.run_dir_wanted()

    def socket(self, host: str) -> Path:
        return self.run_dir / f"{host}.agent.sock"

    def first(self, target: str) -> unix.Answer:
        """The answer to a GET: the first good one, of all agents asked at once (an agent that is only
        starting says 503; then another may know more).

        Raises:
            FloorUnreachable: no agent answers; with the reason of each.
        """
        told = self._ask(target, lambda answer: answer.status < 400)
        return min(told, key=lambda answer: answer.status >= 400)

    def living_host(self) -> str:
        """The host of the agent that answers first, for a request that must not be sent to two: the first
        may have carried it out before it fell silent. Raises FloorUnreachable.
        """
        told = self._told(LIVE, lambda answer: True)
        for host, answer in zip(self.hosts, told, strict=True):
            if isinstance(answer, unix.Answer):
                return host
        raise self._silent(told)

    def _ask(self, target: str, enough: Callable[[unix.Answer], bool]) -> list[unix.Answer]:
        told = self._told(target, enough)
        given = [answer for answer in told if isinstance(answer, unix.Answer)]
        if not given:
            raise self._silent(told)
        return given

    def _told(
        self, target: str, enough: Callable[[unix.Answer], bool]
    ) -> list[unix.Answer | FloorUnreachable | None]:
        sockets = [self.socket(host) for host in self.hosts]
        return unix.ask(sockets, "GET", target, timeout_s=self.timeout_s, enough=enough, live=LIVE)

    def _silent(self, told: Sequence[unix.Answer | FloorUnreachable | None]) -> FloorUnreachable:
        why = (f"{host}: {str(exc).rpartition(': ')[2]}" for host, exc in zip(self.hosts, told, strict=True))
        found = f"no agent of the floor in {self.folders.site_dir} answers ({'; '.join(why) or 'no hosts'})"
        if any(unix.hangs(each) for each in told):
            found += (
                "; daemons trade on without an agent, but nothing is shown, changed or restarted until one "
                "answers (kill -KILL its pid, and hft-floord starts another, which takes over its daemons)"
            )
        elif not any(self.socket(host).exists() for host in self.hosts):
            found += (
                f"; their sockets are not in {self.run_dir}: the floor is only starting, or somebody removed "
                "them (a logout, a cleaner), and then hft-floord starts the agents again within a second, or "
                "`hftctl up` where hft-floord is dead"
            )
        return FloorUnreachable(found)

    def get(self, target: str) -> Any:
        """The decoded JSON of one GET. Raises as `body` does."""
        return json.loads(self.body(target))

    def body(self, target: str) -> bytes:
        """The body of one GET.

        Raises:
            FloorUnreachable, InvalidInput (no such thing), Refused.
        """
        answer = self.first(target)
        if answer.status < 400:
            return answer.body
        said = reason_of(answer)
        if answer.status == 404:
            raise InvalidInput(said)
        if answer.status == 503:
            raise FloorUnreachable(said)
        raise Refused(said)

    def status(self) -> document.StatusDocument:
        """The whole site, as one agent sees it. Raises as `body`, and InvalidInput: it is not a status."""
        found: document.StatusDocument = by_name.read(self.body("/v1/site/status"))
        return found

    def history(self, service: str) -> Any:
        """Changes of leader of a service. Raises as `body`."""
        return self.get(f"/v1/site/history/{quote(service, safe='')}")

    def endpoints(self, service: str) -> Any:
        """Who serves it. Raises as `body`."""
        return self.get(f"/v1/site/endpoints/{quote(service, safe='')}")

    def operations(self) -> Any:
        """All that the store has, oldest first. Raises as `body`."""
        return self.get("/v1/site/operations")

    def ask(self, service: str, what: str) -> Any:
        """What a daemon says of itself, from its leader or only instance."""
        found = self.get(f"/v1/site/ask/{service}/{what}")
        if isinstance(found, dict) and "ok" in found:
            if not found["ok"]:
                raise Refused(f'service "{service}": {found.get("body")}')
            return found.get("body")
        return found


def reason_of(answer: unix.Answer) -> str:
    """What an error answer says, in one line."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = answer.body.decode("utf-8", "replace")
    if isinstance(found, dict):
        found = found.get("error") or found.get("reason") or found.get("body") or found
    return " ".join(str(found).split()) or f"HTTP {answer.status}"
