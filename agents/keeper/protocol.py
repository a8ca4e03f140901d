"""What agent and keeper say to each other: one JSON object a line, over the keeper's unix socket (line.py).

    agent -> keeper   Table: everything that is to be kept, at each connection and at each change
    keeper -> agent   FromKeeper: {"hello"} at each connection and when something in it changes, {"died"} and
                      {"event"} as they happen, {"refused"} for a table that was not taken, {"groups",
                      "registered", "undecodable", "unauthenticated"} once a second, and {} in between, to say
                      that it is there

Both sides read unknown fields as nothing, so that an agent and a keeper of two releases can meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from agents.keeper import pings
from controlplane.errors import InvalidInput
from controlplane.model import Mode, Process
from controlplane.model.records import Registration

LINE_BYTES_MAX = 1 << 20
"""A table of some thousand instances."""

PATH_BYTES_MAX = 4096

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]

# --- to the keeper ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WantedProcess:
    """One running process that the agent wants kept."""

    process: Process
    service: str
    mode: Mode
    alive: str
    lease: str | None = None
    registration: Registration | None = None
    fences: tuple[str, ...] = ()
    home_ok: bool = True
    ending: bool = False
    """The agent stops it, to start it anew or because it is wanted no more: its death is no loss of a
    process."""


@dataclass(frozen=True, slots=True)
class Table:
    instances: tuple[WantedProcess, ...]
    profile: str = "default"
    leaving: bool = False
    """The host goes down: its daemons are being stopped, what they led is given back, and nothing is taken
    any more."""


_tables = msgspec.json.Decoder(Table)


def decode_table(line: bytes) -> Table:
    """Raises InvalidInput."""
    try:
        table = _tables.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"table: {exc}") from exc
    for entry in table.instances:
        name = ascii(entry.process.instance[: pings.NAME_BYTES_MAX])
        if pings.named(entry.process) is None:
            raise InvalidInput(f"table: {name}: instance, boot id, pid and start time of no process")
        for path in (entry.alive, entry.lease or "/"):
            if not path.startswith("/") or "\0" in path or len(path.encode()) > PATH_BYTES_MAX:
                raise InvalidInput(f"table: {name}: its pages: expected absolute paths of usual length")
        if entry.mode is Mode.ACTIVE_STANDBY and not entry.lease:
            raise InvalidInput(f"table: {entry.process.instance} is {entry.mode} and has no lease word")
    return table


# --- from the keeper ----------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True):
    udp: str
    """host:port on which it answers the pings of its peers."""
    pings_trouble: str = ""
    """Why it does not ping, or with which key it goes on; empty: nothing is wrong."""
    tokens_trouble: str = ""
    """Of its disk of seen tokens, since it started."""
    registry_trouble: str = ""
    """Why what is registered here is not seen everywhere (Consul's agent is gone); empty: it is."""


class Died(msgspec.Struct, frozen=True):
    process: Process


class Decision(msgspec.Struct, frozen=True):
    """What a member of a group does now, and why: one sentence, when it changes."""

    service: str
    instance: str
    text: str
    kind: str = "group.decision"


class LedGroup(msgspec.Struct, frozen=True):
    """A group with a member here, as this keeper sees it."""

    epoch: int
    leader: str | None
    lease_remaining_ms: int
    text: str


class FromKeeper(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: the field that is set says what it is."""

    hello: Hello | None = None
    died: Died | None = None
    event: Decision | None = None
    refused: str = ""
    """Why the last table was not taken; the one before stays in force."""
    groups: Mapping[str, LedGroup] | None = None
    registered: list[str] | None = None
    """Instance ids that stand in the store by this keeper's own writes."""
    undecodable: Count = 0
    """Lines, pings, peers' addresses and looks at heartbeat pages so far."""
    unauthenticated: Annotated[Mapping[str, Count], msgspec.Meta(max_length=16)] | None = None
    """Pings that were not believed so far, by why (peers.KINDS)."""


BEAT = FromKeeper()
"""Nothing set: the keeper's loop turns."""

_from_keeper = msgspec.json.Decoder(FromKeeper)


def decode_from_keeper(line: bytes) -> FromKeeper:
    """Raises InvalidInput: half a line of a keeper that died while it wrote."""
    try:
        return _from_keeper.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"keeper: {exc}") from exc
