"""The fence file beside a lease page, `<HFT_LEASE>.fence`: whom a leading daemon fences or serves (rule R11).

JSON {group: {"token": Token, "leader": Process | null, "endpoints": {...}}}. Written whole by the keeper,
after its own take and before it arms the page, and again whenever it changes; read by the daemon when its
page says lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.model import Process, Token


class Target(msgspec.Struct, frozen=True):
    """One group: its token when the keeper looked, who leads it, and where its endpoints are."""

    token: Token
    leader: Process | None = None
    endpoints: Mapping[str, str] = msgspec.field(default_factory=dict)


def path_of(lease: Path) -> Path:
    return lease.with_name(f"{lease.name}.fence")


def write(lease: Path, targets: Mapping[str, Target]) -> None:
    """Replace the file whole. Raises OSError; then the old one stands."""
    # Beside the page, on tmpfs, and written anew before each arming.
    files.replace(path_of(lease), msgspec.json.encode(targets), Durability.CRASH)


def read(lease: Path) -> Mapping[str, Target]:
    """Empty when there is no file yet.

    Raises:
        InvalidInput: the file is not one of these.
    """
    path = path_of(lease)
    try:
        return model.decode(dict[str, Target], path.read_bytes())
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as exc:
        raise InvalidInput(f"{path}: found what does not decode as a fence file: {exc}") from exc
