"""The fences of a receiver: for each group the highest token that fenced it, and who claimed that token
first. On disk before anyone is told.

Who keeps them: execd and simd (orders), riskd, positiond and auditd (links). What they promise (rules R10,
R11): after `admit` has returned True, a lower token of that group is refused for ever, over kill -9 and power
loss, and an equal one is accepted only from its first claimant (a store that was restored may give an epoch
out twice). Where a fence cannot be written, nothing of that group passes until it can: nobody trades, never
two.

The check for each order is `refuses`: one dict lookup and one comparison.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.model import Process, Token
from hftd.wire import orders

NOBODY = Process("", "", 0, 0)
"""Claimant of an epoch that is known to be closed: no process equals it, so that epoch passes for none."""


class AnyToken(Protocol):
    """A model.Token or its form on the wire; both are read, never kept."""

    @property
    def incarnation(self) -> int: ...
    @property
    def group(self) -> str: ...
    @property
    def epoch(self) -> int: ...


class _Row(msgspec.Struct, frozen=True):
    incarnation: int
    epoch: int
    claimant: Process


class Fences:
    def __init__(self, path: Path) -> None:
        """Read the fences kept at `path`; no file: no group has fenced yet.

        Raises:
            InvalidInput: the file does not decode. Starting without it could accept a token that was refused
            before.
        """
        self.path = path
        _take_over_first_name(path)
        self._rows = _read(path)
        self._open = _passing(self._rows)
        """What passes; a group is missing when its epoch is closed, and while its fence is raised in memory
        and not yet on disk."""
        self._written = dict(self._rows)
        self._write_error = ""

    def admit(self, token: AnyToken, claimant: Process) -> bool:
        """Raise the group's fence to `token`; True once that is on disk (at once, without a write, when it
        already was).

        False, with the reason in `objection`: lower than the fence, equal and claimed by another, or not
        written. An own new token closes the group for lower ones even when the write fails.
        """
        if self.conflict(token, claimant):
            return False
        row = _Row(token.incarnation, token.epoch, claimant)
        if self._written.get(token.group) == row:
            return True
        self._rows[token.group] = row
        self._open.pop(token.group, None)
        try:
            _write(self.path, self._rows)
        except OSError as exc:
            self._write_error = f"{self.path}: the fence could not be written: {exc.strerror or exc}"
            return False
        self._write_error = ""
        self._open, self._written = _passing(self._rows), dict(self._rows)
        return True

    def attach(self, attach: orders.Attach) -> tuple[bool, str]:
        """Admit the sender of an Attach as its group's leader: (True, "") once its token is on disk, else
        (False, why).
        """
        if attach.token is None:
            return False, "no token"
        claimant = attach.claimant.process()
        ok = self.admit(attach.token, claimant)
        return ok, "" if ok else self.objection(attach.token, claimant)

    def refuses(self, token: AnyToken | None) -> bool:
        """True unless `token` is exactly the one that its group was fenced with last.

        Lower is stale. Higher has not fenced: taking its orders while lower ones still pass would be two
        leaders at once.
        """
        return token is None or self._open.get(token.group) != (token.incarnation, token.epoch)

    def stale(self, token: AnyToken) -> bool:
        """True when `token` is below its group's fence; a group that never fenced has no fence."""
        row = self._rows.get(token.group)
        return row is not None and (token.incarnation, token.epoch) < (row.incarnation, row.epoch)

    def objection(self, token: AnyToken, claimant: Process) -> str:
        """Why `admit` refuses; empty when it would not."""
        return self.conflict(token, claimant) or self._write_error

    def highest(self, group: str) -> Token | None:
        row = self._rows.get(group)
        return None if row is None else Token(row.incarnation, group, row.epoch)

    def claimant(self, group: str) -> Process | None:
        row = self._rows.get(group)
        return None if row is None else row.claimant

    def groups(self) -> list[str]:
        return sorted(self._rows)

    def conflict(self, token: AnyToken, claimant: Process) -> str:
        """Why this claim can never stand; "" when only the disk could still refuse it."""
        row = self._rows.get(token.group)
        if row is None or (token.incarnation, token.epoch) > (row.incarnation, row.epoch):
            return ""
        found, fence = f"{token.incarnation}/{token.epoch}", f"{row.incarnation}/{row.epoch}"
        if found != fence:
            return f"group {token.group!r}: token {found} is below the fence {fence}"
        if claimant != row.claimant:
            return (
                f"group {token.group!r}: token {found} was claimed by "
                f"{row.claimant.instance or 'no process'} (pid {row.claimant.pid}) first"
            )
        return ""

    def __repr__(self) -> str:
        return (
            f"Fences({self.path.name}: "
            + ", ".join(f"{group} {row.incarnation}/{row.epoch}" for group, row in sorted(self._rows.items()))
            + ")"
        )


def _passing(rows: dict[str, _Row]) -> dict[str, tuple[int, int]]:
    return {group: (row.incarnation, row.epoch) for group, row in rows.items() if row.claimant != NOBODY}


def _take_over_first_name(path: Path) -> None:
    """The first release called this file floors.json. To start without it would be to forget what was
    refused.
    """
    first = path.with_name("floors.json")
    if first.exists() and not path.exists():
        first.rename(path)


def _read(path: Path) -> dict[str, _Row]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, _Row])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidInput(
            f"{path}: expected the token fences of this receiver, found what does not decode: {exc}"
        ) from exc


def _write(path: Path, rows: dict[str, _Row]) -> None:
    files.replace(path, msgspec.json.encode(rows), Durability.POWER, mode=0o600)
