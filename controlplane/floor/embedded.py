"""The store that a laptop floor brings along: what the floor asks of one, and the one place where a kind is
chosen by name (`hftctl up --store NAME`).

An implementation is a file of its own beside this one (etcd.py) and an entry in `KINDS`; nothing else of the
floor, the agents or the verbs knows which kinds there are. Clients reach any of them by `store.connect` at
"KIND://ENDPOINT[,ENDPOINT...]", which is what floor.json's "store" says (`Folders.store_url`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from controlplane.errors import InvalidInput

KINDS = {"etcd": "controlplane.floor.etcd:Etcd"}
DEFAULT = "etcd"


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

    def holder(self, version: str, site_dir: Path) -> str:
        """Who serves its data now, "" when none does: it must not be started beside another."""

    async def wait_ready(self, endpoints: Sequence[str], died: Callable[[], bool]) -> None:
        """Return once it serves reads and writes.

        Raises:
            Unavailable: it does not within its own bound, or `died` became true.
        """


def named(kind: str) -> Embedded:
    """Raises InvalidInput: there is no such kind."""
    place = KINDS.get(kind)
    if place is None:
        raise InvalidInput(f'--store: found "{kind}", wanted one of {", ".join(KINDS)}')
    module, _, name = place.partition(":")
    made: Embedded = getattr(import_module(module), name)()
    return made
