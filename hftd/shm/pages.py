"""The two words between a keeper and a daemon, in shared memory: who may lead until when, and who is alive
and doing what.

A word is a small file in the run folder, mapped by both sides. One side writes it, the other only reads; a
seqlock (R20: the sequence is odd while a write is under way) makes a read of several fields consistent
without a lock that a dead process could hold. Layouts are in docs/protocol.md with golden bytes in tests.
Pure Python: eight-byte loads and stores through a memoryview are single moves, and x86-64 keeps them in
order; a native twin with barriers for weakly ordered CPUs is a later room here (ADR 0005).
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from controlplane.errors import InvalidInput
from controlplane.host import cpu, files
from controlplane.host.files import Durability
from controlplane.model import Phase, Process

PAGE_BYTES = 256
LEASE_MAGIC = b"HFTLEAS1"
ALIVE_MAGIC = b"HFTALIV1"

# 8-byte word indexes. Sequence is the second word of both.
_SEQUENCE = 1
_SEQUENCE_MAX = (1 << 64) - 1
"""What follows is 0: rubbish in a page ends no writer."""
_LEASE_BODY = struct.Struct(
    "<64s16sqqQQQq"
)  # instance, boot id, pid, start time, incarnation, epoch, wanted, valid_until
_ALIVE_BODY = struct.Struct(
    "<qqqQQQQ"
)  # pid, start time, heartbeat, phase, epoch, replication sequence, electable revision
_BODY_AT = 16
_HEARTBEAT_WORD = (_BODY_AT + 16) // 8
LOOKS_MAX = 1000
"""At a word that is being written: well under a millisecond, and a write takes some microseconds. Beyond it
the writer has died or was stopped."""
EPOCH_MAX = 1 << 32
"""Of a heartbeat page: epochs count takes, and no group comes near it."""
AHEAD_MAX_NS = 1_000_000_000
"""A reader's clock is the writer's, read a moment later: a beat further ahead than this was never stamped."""
# In the heartbeat page 64 bytes from 128 on are kept for a robust mutex (docs/protocol.md); nothing uses
# them.


class Wanted(IntEnum):
    STANDBY = 0
    LEAD = 1
    HAND_OVER = 2


@dataclass(frozen=True, slots=True)
class LeaseWord:
    """What the lease word says. `process` None: addressed to no process."""

    process: Process | None
    incarnation: int
    epoch: int
    wanted: Wanted
    valid_until_ns: int
    """CLOCK_BOOTTIME ns; past it no new order leaves (R3: send time of the renewal + renew deadline, never
    now + anything)."""

    def leads(self, process: Process, now_boot_ns: int) -> bool:
        """R2: only the process addressed, only while valid."""
        return self.process == process and self.wanted is Wanted.LEAD and now_boot_ns < self.valid_until_ns


@dataclass(frozen=True, slots=True)
class Alive:
    pid: int
    start_time: int
    heartbeat_ns: int
    phase: Phase
    epoch: int
    """The epoch under which it is in that phase; 0 without one."""
    replication_seq: int
    """Last journal sequence that it has."""
    electable_revision: int
    """Counts changes of `<HFT_ALIVE>.electable`, the leader's list of standbys within the lag."""


NOBODY = LeaseWord(None, 0, 0, Wanted.STANDBY, 0)


def create(path: Path, magic: bytes) -> None:
    """Make an empty word (atomically; an existing one is replaced, so the old mapping of a dead owner is left
    behind).
    """
    files.replace(path, magic + bytes(PAGE_BYTES - len(magic)), Durability.CRASH)  # it lives in shared memory


class _Page:
    _magic = b""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Raises InvalidInput when the file is not such a word, OSError when it cannot be mapped,
        InvalidSettings on a machine whose stores are not ordered.
        """
        cpu.require_ordered_stores()
        self.path = path
        fd = os.open(
            path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NONBLOCK
        )  # a FIFO waits for nobody
        try:
            self._map = mmap.mmap(fd, PAGE_BYTES, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        except ValueError as exc:
            raise InvalidInput(
                f"{path}: a page has {PAGE_BYTES} bytes, found {os.fstat(fd).st_size}"
            ) from exc
        finally:
            os.close(fd)
        if self._map[:8] != self._magic:
            raise InvalidInput(
                f"{path}: expected a page that begins with {self._magic!r}, found {self._map[:8]!r}"
            )
        self._words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self._words.release()
        self._map.close()

    @property
    def cut(self) -> bool:
        """The file is shorter now than a page: to touch the mapping would end this process (SIGBUS)."""
        return self._map.size() < PAGE_BYTES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, size: int) -> tuple[int, bytes] | None:
        """The sequence and what was written under it; None when a write stays half done (its writer died in
        the middle).
        """
        words = self._words
        for _ in range(LOOKS_MAX):
            before = words[_SEQUENCE]
            if before & 1:
                continue
            body = self._map[_BODY_AT : _BODY_AT + size]
            if words[_SEQUENCE] == before:
                return before, body
        return None

    def _write(self, body: bytes) -> None:
        words = self._words
        sequence = words[_SEQUENCE] | 1  # a writer that died in the middle left it odd
        words[_SEQUENCE] = sequence
        self._map[_BODY_AT : _BODY_AT + len(body)] = body
        words[_SEQUENCE] = (sequence + 1) & _SEQUENCE_MAX

    @property
    def sequence(self) -> int:
        return self._words[_SEQUENCE]


class LeasePage(_Page):
    """The keeper writes, the daemon reads."""

    _magic = LEASE_MAGIC

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        super().__init__(path, writable=writable)
        self._seen = -1
        self._cached = NOBODY

    def read(self) -> LeaseWord:
        """Cheap enough for every turn of a poll loop: decodes only when the sequence has changed.

        While a write is half done it is what was read last: that ends at its own `valid_until_ns`, whatever
        becomes of the writer. Fields that no keeper writes are addressed to nobody.
        """
        sequence = self._words[_SEQUENCE]
        if sequence == self._seen:
            return self._cached
        found = self._read(_LEASE_BODY.size)
        if found is None:
            self._seen = sequence  # odd, and not waited for again; the next writer ends it with an even one
            return self._cached
        sequence, body = found
        self._seen, self._cached = sequence, _lease_word(body)
        return self._cached

    def write(self, lease: LeaseWord) -> None:
        process = lease.process
        self._write(
            _LEASE_BODY.pack(
                process.instance.encode() if process else b"",
                UUID(process.boot_id).bytes if process else bytes(16),
                process.pid if process else 0,
                process.start_time if process else 0,
                lease.incarnation,
                lease.epoch,
                lease.wanted,
                lease.valid_until_ns,
            )
        )


def _lease_word(body: bytes) -> LeaseWord:
    instance, boot, pid, start_time, incarnation, epoch, wanted, valid_until_ns = _LEASE_BODY.unpack(body)
    try:
        process = (
            Process(instance.rstrip(b"\0").decode(), str(UUID(bytes=boot)), pid, start_time) if pid else None
        )
        return LeaseWord(process, incarnation, epoch, Wanted(wanted), valid_until_ns)
    except ValueError:
        return NOBODY


class HeartbeatPage(_Page):
    """The daemon writes, the keeper reads."""

    _magic = ALIVE_MAGIC

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        super().__init__(path, writable=writable)
        self._last: Alive | None = None

    def read(self) -> Alive:
        """While a write is half done it is what was read last: its heartbeat grows old by itself.

        Raises:
            InvalidInput: half done, and nothing was read before; or what no daemon writes, with the value.
        """
        if self.cut or self._map[:8] != self._magic:
            raise InvalidInput(f"{self.path}: cut or overwritten, not a heartbeat page any more")
        found = self._read(_ALIVE_BODY.size)
        if found is not None:
            pid, start_time, heartbeat_ns, phase, epoch, replication_seq, electable_revision = (
                _ALIVE_BODY.unpack(found[1])
            )
            if phase > max(Phase):
                raise InvalidInput(f"{self.path}: phase {phase}, which is none: they are 0 to {max(Phase):d}")
            if epoch > EPOCH_MAX:
                raise InvalidInput(f"{self.path}: epoch {epoch}, at most {EPOCH_MAX} is possible")
            self._last = Alive(
                pid, start_time, heartbeat_ns, Phase(phase), epoch, replication_seq, electable_revision
            )
        if self._last is None:
            raise InvalidInput(f"{self.path}: half written; its writer died in the middle")
        return self._last

    def believed(self, now_boot_ns: int) -> Alive:
        """`read`, with a heartbeat that may have been stamped by now.

        Raises:
            InvalidInput: as `read`; or a heartbeat from the future, or from before the boot.
        """
        alive = self.read()
        if not 0 <= alive.heartbeat_ns <= now_boot_ns + AHEAD_MAX_NS:
            ahead_s = (alive.heartbeat_ns - now_boot_ns) / 1e9
            raise InvalidInput(
                f"{self.path}: heartbeat {alive.heartbeat_ns} ns, {ahead_s:.0f} s ahead of now"
            )
        return alive

    def write(self, alive: Alive) -> None:
        self._write(
            _ALIVE_BODY.pack(
                alive.pid,
                alive.start_time,
                alive.heartbeat_ns,
                alive.phase,
                alive.epoch,
                alive.replication_seq,
                alive.electable_revision,
            )
        )

    def beat(self, now_boot_ns: int) -> None:
        """Stamp only the heartbeat: one eight-byte store needs no seqlock."""
        self._words[_HEARTBEAT_WORD] = now_boot_ns


def electable_path(alive: Path) -> Path:
    """`<HFT_ALIVE>.electable`: JSON list of Process, the standbys within the replication lag, written by a
    leading daemon atomically.
    """
    return alive.with_name(f"{alive.name}.electable")
