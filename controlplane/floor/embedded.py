"""The store that a laptop floor brings along: what the floor asks of one, and the one place where a kind is
chosen by name (`hftctl up --store NAME`).

An implementation is a file of its own beside this one (etcd.py) and an entry in `KINDS`; nothing else of the
floor, the agents or the verbs knows which kinds there are. Clients reach any of them by `store.connect` at
"KIND://ENDPOINT[,ENDPOINT...]", which is what floor.json's "store" says (`Folders.store_url`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from controlplane.errors import HftctlError, InvalidInput, Unavailable

KINDS = {"etcd": "controlplane.floor.etcd:Etcd", "consul": "controlplane.floor.consul:Consul"}
DEFAULT = "etcd"
READY_S = 20.0
READY_LOOK_S = 0.03


@dataclass(frozen=True, slots=True)
class Choice:
    """A binary that was found fit."""

    path: str
    version: str
    throw_away: bool
    """Its data may be lost when it is killed."""
    sentence: str
    """For the operator: which one and why."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of it."""

    command: tuple[str, ...]
    endpoints: tuple[str, ...]
    """Where it will answer (store/endpoint.py)."""
    folder: Path
    """Its working directory: the run folder, where its sockets are."""
    token_file: Path | None = None
    """Of 0600, with what a client has to show; None: the socket's own mode is all that guards it."""


class Embedded(Protocol):
    kind: str
    """Its name: of the process, of its log, and in front of "://"."""
    stop_grace_s: float
    """How long an orderly end may take."""

    def choose(self) -> Choice:
        """Raises InvalidSettings: there is no binary that may be used."""

    def chosen(self, path: str) -> Choice:
        """The binary at the path, which runs already. Raises InvalidSettings: it is gone, or none of this."""

    def prepare(self, choice: Choice, site_dir: Path) -> None:
        """Make its data folder. Raises Refused: another version's data is there, and cannot be taken over."""

    def launch(self, choice: Choice, site_dir: Path, run_dir: Path, at: Sequence[str] = ()) -> Launch:
        """How to start it, on sockets in the run folder alone; `at`: where it must be found again, by those
        that know it there. Raises Refused as `prepare` does.
        """

    async def ready(self, url: str, site_dir: Path) -> None:
        """It answers: do what can only be asked of it then. Raises HftctlError."""

    def holder(self, version: str, site_dir: Path) -> str:
        """Who serves its data now, "" when none does: it must not be started beside another."""


async def wait_ready(url: str, died: Callable[[], bool], timeout_s: float = READY_S) -> None:
    """Return once the store serves reads and writes.

    Raises:
        Unavailable: it did not in `timeout_s`, or `died` became true (the process has ended: say why from its
            log).
    """
    import asyncio  # as is the store: `up --help` names the kinds and asks none

    from controlplane import store

    deadline_mono_s = time.monotonic() + timeout_s
    client = store.connect(url)
    try:
        while True:
            try:
                health = await client.health()
                reason = health.reason
                if health.healthy:
                    return
            except HftctlError as exc:
                reason = str(exc)
            if died():
                raise Unavailable(f"store {url}: the process ended before it answered")
            if time.monotonic() > deadline_mono_s:
                raise Unavailable(f"store {url}: not ready after {timeout_s:g} s ({reason})")
            await asyncio.sleep(READY_LOOK_S)
    finally:
        await client.close()


def named(kind: str) -> Embedded:
    """Raises InvalidInput: there is no such kind."""
    place = KINDS.get(kind)
    if place is None:
        raise InvalidInput(f'--store: found "{kind}", wanted one of {", ".join(KINDS)}')
    module, _, name = place.partition(":")
    made: Embedded = getattr(import_module(module), name)()
    return made
