"""The fences of a receiver: for each group the highest token that fenced it, and who claimed that token
first. On disk before anyone is told.

Who keeps them: execd and simd (orders), riskd, positiond and auditd (links). What they promise (rules R10,
R11): after `admit` has returned True, a lower token of that group is refused, over kill -9 and power loss,
and an equal one is accepted only from its first claimant (a store that was restored may give an epoch out
twice). Only an operator lowers a fence, to what the store holds (`reset`). A token far above what the store
is known to hold is not admitted (heights.py). Where a fence cannot be written, nothing of that group passes
until it can: nobody trades, never two.

A receiver that holds a lease gives a `writer` that does not wait for the disk: `admit` then says False, with
BEING_WRITTEN as the objection, and True when it is asked again after the disk has it. Until then nothing of
that group passes.

The check for each order is `refuses`: one dict lookup and one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from controlplane.model import Process, Token, in_range
from hftd.engine import reasons
from hftd.shm import kept_fences
from hftd.shm.kept_fences import NOBODY as NOBODY
from hftd.shm.kept_fences import Row
from hftd.storage import heights
from hftd.storage.heights import Claim as Claim
from hftd.storage.heights import StoreToken
from hftd.wire import codec, orders

Writer = Callable[[Path, Mapping[str, Row], Callable[[str], None]], None]
"""Writes the rows there, synced, and calls with "" once the disk has them, or with why it does not. One write
ends before the next begins."""


def written(path: Path, rows: Mapping[str, Row]) -> str:
    """Write them, and wait for the disk: "" when it has them, else why not."""
    try:
        kept_fences.write(path, rows)
    except OSError as exc:
        return f"{path}: the fence could not be written: {exc.strerror or exc}"
    return ""


def at_once(path: Path, rows: Mapping[str, Row], done: Callable[[str], None]) -> None:
    """A Writer that waits."""
    done(written(path, rows))


class Fences:
    def __init__(self, path: Path, store_token: StoreToken, writer: Writer = at_once) -> None:
        """Read the fences kept at `path`; no file: no group has fenced yet. `store_token`: what the store is
        known to hold (heights.py).

        Raises:
            InvalidInput: the file does not decode. Starting without it could accept a token that was refused
            before.
        """
        self.path = path
        _take_over_first_name(path)
        self._rows = kept_fences.read(path)
        self._heights = heights.Heights({group: row.rank for group, row in self._rows.items()}, store_token)
        self._admitted: dict[str, int] = {}
        self._open = _passing(self._rows)
        """What passes; a group is missing when its epoch is closed, and while its fence is raised in memory
        and not yet on disk."""
        self._written = dict(self._rows)
        self._write_error = ""
        self._writer = writer
        self._being_written: dict[str, Row] | None = None
        self._being_reset = False
        """An operator's reset is on its way to the disk: no claim is admitted meanwhile."""

    def admit(self, token: codec.AnyToken, claimant: Process) -> bool:
        """Raise the group's fence to `token`; True once that is on disk (at once, without a write, when it
        already was).

        False, with the reason in `objection`: lower than the fence, equal and claimed by another, higher than
        is believed without the store's word, or not written. An own new token closes the group for lower ones
        even when the write fails.
        """
        if self._being_reset or self.conflict(token, claimant):
            return False
        row = Row(token.incarnation, token.epoch, claimant)
        self._admitted[token.group] = self.admitted(token.group) + 1
        if self._written.get(token.group) == row:
            return True
        self._rows[token.group] = row
        self._open.pop(token.group, None)
        rows = dict(self._rows)
        if rows != self._being_written:
            self._being_written = rows
            self._writer(self.path, rows, partial(self._was_written, rows))
        return self._written.get(token.group) == row

    def _was_written(self, rows: dict[str, Row], error: str) -> None:
        if self._being_written is rows:
            self._being_written = None
        self._write_error = error
        if not error:
            self._written = rows
            # What was raised meanwhile is not on the disk yet.
            self._open = {
                group: rank for group, rank in _passing(rows).items() if self._rows.get(group) == rows[group]
            }

    def being_written(self, group: str) -> bool:
        """Is the disk all that the group's fence waits for?"""
        if self._being_reset:
            return True
        return self._being_written is not None and self._written.get(group) != self._rows.get(group)

    def reset(self, token: Token, claimant: Process, admitted: int, done: Callable[[str], None]) -> None:
        """Set the group's fence to what the store holds, though it is lower, and call with "" once that is on
        disk, else with why it is not.

        Only for what the agent says (`hftctl fence reset`): the token that it read from the store AFTER it
        had asked for `admitted`. Nothing is changed when a claim of the group was admitted since: the store
        may have given out a higher token meanwhile. A fence that is not above the store's stays as it is.
        Until the disk has it, nothing of the group passes and no claim of any group is admitted.
        """
        row = self._rows.get(token.group)
        if not in_range(token.incarnation, token.epoch):
            done(f"group {token.group!r}: {token.incarnation}/{token.epoch} is out of range")
            return
        if self.admitted(token.group) != admitted or self._being_written is not None or self._being_reset:
            done(f"group {token.group!r}: fenced meanwhile; look again")
            return
        wanted = Row(token.incarnation, token.epoch, claimant)
        if row is None or row.rank < token.rank or row == wanted:
            self._heights.reset(token)
            done("")
            return
        rows, passed = {**self._rows, token.group: wanted}, self._open.pop(token.group, None)

        def ended(error: str) -> None:
            self._being_reset = False
            if not error:
                self._rows = rows
                self._open, self._written = _passing(rows), dict(rows)
                self._heights.reset(token)
            elif passed is not None:
                self._open[token.group] = passed
            done(error)

        self._being_reset = True
        self._writer(self.path, rows, ended)

    def admitted(self, group: str) -> int:
        """How many claims of the group this process has admitted, one that could not be written included."""
        return self._admitted.get(group, 0)

    def attach(self, attach: orders.Attach) -> tuple[bool, str]:
        """Admit the sender of an Attach as its group's leader: (True, "") once its token is on disk, else
        (False, why).
        """
        if attach.token is None:
            return False, "no token"
        claimant = attach.claimant.process()
        ok = self.admit(attach.token, claimant)
        return ok, "" if ok else self.objection(attach.token, claimant)

    def refuses(self, token: codec.AnyToken | None) -> bool:
        """True unless `token` is exactly the one that its group was fenced with last.

        Lower is stale. Higher has not fenced: taking its orders while lower ones still pass would be two
        leaders at once.
        """
        return token is None or self._open.get(token.group) != (token.incarnation, token.epoch)

    def stale(self, token: codec.AnyToken) -> bool:
        """True when `token` is below its group's fence; a group that never fenced has no fence."""
        row = self._rows.get(token.group)
        return row is not None and (token.incarnation, token.epoch) < (row.incarnation, row.epoch)

    def objection(self, token: codec.AnyToken, claimant: Process) -> str:
        """Why `admit` refuses; empty when it would not."""
        waiting = reasons.BEING_WRITTEN if self.being_written(token.group) else ""
        return self.conflict(token, claimant) or waiting or self._write_error

    def highest(self, group: str) -> Token | None:
        row = self._rows.get(group)
        return None if row is None else Token(row.incarnation, group, row.epoch)

    def claimant(self, group: str) -> Process | None:
        row = self._rows.get(group)
        return None if row is None else row.claimant

    def groups(self) -> list[str]:
        return sorted(self._rows)

    def conflict(self, token: codec.AnyToken, claimant: Process) -> str:
        """Why this claim cannot stand (`waits`: not yet); "" when only the disk could still refuse it."""
        row = self._rows.get(token.group)
        if row is None or (token.incarnation, token.epoch) > row.rank or _out_of_range(token):
            return self._heights.judge(token, claimant)
        found, fence = f"{token.incarnation}/{token.epoch}", f"{row.incarnation}/{row.epoch}"
        if found != fence:
            return f"group {token.group!r}: token {found} is below the fence {fence}"
        if claimant != row.claimant:
            return (
                f"group {token.group!r}: token {found} was claimed by "
                f"{row.claimant.instance or 'no process'} (pid {row.claimant.pid}) first"
            )
        return ""

    def waits(self, token: codec.AnyToken) -> bool:
        """Is the store's word all that is missing? Then its claimant is to ask again."""
        row = self._rows.get(token.group)
        return (
            (row is None or (token.incarnation, token.epoch) > row.rank)
            and not _out_of_range(token)
            and not self._heights.believes(token)
        )

    def refusal_counter(self, token: codec.AnyToken | None) -> str:
        """Under which name its refusal is counted."""
        unbelieved = token is not None and (_out_of_range(token) or self.waits(token))
        return "unconfirmed_fences" if unbelieved else "stale_token_refusals"

    def claims(self) -> list[Claim]:
        """What was asked for and is not believed, oldest first."""
        return self._heights.claims(self.highest)

    def __repr__(self) -> str:
        return (
            f"Fences({self.path.name}: "
            + ", ".join(f"{group} {row.incarnation}/{row.epoch}" for group, row in sorted(self._rows.items()))
            + ")"
        )


def _out_of_range(token: codec.AnyToken) -> bool:
    return not in_range(token.incarnation, token.epoch)


def _passing(rows: dict[str, Row]) -> dict[str, tuple[int, int]]:
    return {
        group: row.rank
        for group, row in rows.items()
        if row.claimant != NOBODY and in_range(row.incarnation, row.epoch)
    }


def _take_over_first_name(path: Path) -> None:
    """The first release called this file floors.json. To start without it would be to forget what was
    refused.
    """
    first = path.with_name("floors.json")
    if first.exists() and not path.exists():
        first.rename(path)
