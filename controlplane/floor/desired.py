"""desired.json: what `hftctl up` wants to run. `up` is its one writer, hft-floord its reader; the specs in it
have been checked as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from controlplane.errors import InvalidInput
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.model import ServiceSpec


@dataclass(frozen=True, slots=True)
class Desired:
    site: str
    services_file: str
    """Where the specs came from; a bare `up` reads it again."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by daemon given on the command line (--tape, --speed, --seed), over those of the file."""
    specs: Sequence[ServiceSpec] = ()
    http_port: int = 0
    """TCP port of the controller's HTTP, the agents' on the next ones; 0: any free."""

    @property
    def hosts(self) -> list[str]:
        return sorted({host for spec in self.specs for host in spec.hosts})

    @property
    def digest(self) -> str:
        """Says which specs these are; hft-floord repeats it in floor.json when they are in the store."""
        return hashlib.sha256(msgspec.json.encode(self.specs, order="deterministic")).hexdigest()[:16]


def read(folders: Folders) -> Desired | None:
    """What was wanted last, or None when nothing was.

    Raises:
        InvalidInput: the file is there and is not ours.
    """
    try:
        return msgspec.json.decode(folders.desired_json.read_bytes(), type=Desired)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as exc:
        raise InvalidInput(f"{folders.desired_json}: not what `hftctl up` has written: {exc}") from exc


def write(folders: Folders, desired: Desired) -> None:
    source = Path(desired.services_file)
    if source.resolve() != folders.services.resolve():
        site_folders.write_atomically(folders.services, source.read_bytes())
    site_folders.write_atomically(folders.desired_json, msgspec.json.format(msgspec.json.encode(desired)))
