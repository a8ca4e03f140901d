"""Ask the floor: any agent of this machine answers for the whole site, over its unix socket, from memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlplane.cli import by_name
from controlplane.cli.output import ASK_TIMEOUT_S
from controlplane.errors import FloorUnreachable, InvalidInput, Refused
from controlplane.floor import folders
from controlplane.http import unix

if TYPE_CHECKING:
    from controlplane.site import document

EXIT_CODES = {"succeeded": 0, "refused": 1, "failed": 1, "cancelled": 1, "unknown": 4}
"""Of a verb that changes something, by how its operation ended."""


class Floor:
    """The floor of one site folder, as its agents know it."""

    def __init__(self, site_dir: Path | None, timeout_s: float = ASK_TIMEOUT_S) -> None:
        self.folders = folders.Folders(site_dir or folders.default_site_dir())
        self.timeout_s = timeout_s
        found = self.folders.running()
        if found is None:
            raise FloorUnreachable(f"no floor runs in {self.folders.site_dir} (start one with: hftctl up)")
        self.hosts: list[str] = list(found.get("hosts", ()))
        self.run_dir = Path(found.get("run_dir", self.folders.run_dir_wanted()))

    def answers(
        self, method: str, target: str, body: bytes = b"", timeout_s: float | None = None
    ) -> list[unix.Answer]:
        """One answer from each agent that gives one.

        Raises:
            FloorUnreachable: none does.
        """
        given, silent = [], []
        for host in self.hosts:
            try:
                given.append(
                    unix.request(
                        self.run_dir / f"{host}.agent.sock",
                        method,
                        target,
                        body,
                        timeout_s=timeout_s or self.timeout_s,
                    )
                )
            except FloorUnreachable as exc:
                silent.append(f"{host}: {str(exc).rpartition(': ')[2]}")
        if not given:
            raise FloorUnreachable(
                f"no agent of the floor in {self.folders.site_dir} answers "
                f"({'; '.join(silent) or 'it has no hosts'})"
            )
        return given

    def first(
        self, method: str, target: str, body: bytes = b"", timeout_s: float | None = None
    ) -> unix.Answer:
        """The first good answer (an agent that is only starting says 503; then another may know more)."""
        refused: unix.Answer | None = None
        silent = []
        for host in self.hosts:
            try:
                answer = unix.request(
                    self.run_dir / f"{host}.agent.sock",
                    method,
                    target,
                    body,
                    timeout_s=timeout_s or self.timeout_s,
                )
            except FloorUnreachable as exc:
                silent.append(f"{host}: {str(exc).rpartition(': ')[2]}")
                continue
            if answer.status < 400:
                return answer
            refused = refused or answer
        if refused is None:
            raise FloorUnreachable(
                f"no agent of the floor in {self.folders.site_dir} answers "
                f"({'; '.join(silent) or 'it has no hosts'})"
            )
        return refused

    def get(self, target: str) -> Any:
        """The decoded JSON of one GET. Raises as `body` does."""
        return json.loads(self.body(target))

    def body(self, target: str) -> bytes:
        """The body of one GET.

        Raises:
            FloorUnreachable, InvalidInput (no such thing), Refused.
        """
        answer = self.first("GET", target)
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
