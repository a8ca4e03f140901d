"""Positions on disk: a snapshot and the executions since. What `append` has returned from survives kill -9;
what `sync` has, a power cut.

    positions.json     engine/position.PositionsDump, replaced atomically
    executions.log     records {length u32, crc32 u32} + msgpack of engine/position.Execution

A record is applied once for each execution id, so a crash between a new snapshot and the emptied log only
makes records that are skipped. After a sync that failed nothing is taken, and nothing counts as synced, until
what it may have lost was written again (sync_tail.py).
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd.engine.position import Execution, Positions, PositionsDump
from hftd.storage.sync_tail import SyncTail

_HEAD = struct.Struct("<II")
RECORD_BYTES_MAX = 4096
"""An execution has about 60; a larger length is not one of ours."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Execution).decode


class PositionLog:
    def __init__(self, folder: Path) -> None:
        """Load what is there; a record that was being written when the process died was never acknowledged
        and is cut.

        Raises:
            InvalidInput: the snapshot does not decode. Starting at zero would be silently wrong.
            OSError: the folder cannot be used.
        """
        self._snapshot, self._path = folder / "positions.json", folder / "executions.log"
        self.positions = self._load_snapshot()
        self.torn_bytes = 0
        self.undecodable: list[int] = []
        """Bytes of the log at which a whole record stands that is not an execution. It is left out, and its
        execution is asked for again."""
        self.records = 0
        """In the log now."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = self._replay()
        self._tail = SyncTail(self._fd, size, synced=0)
        self._named = False
        """The log's name is on the disk."""

    def _load_snapshot(self) -> Positions:
        try:
            return Positions.load(model.decode(PositionsDump, self._snapshot.read_bytes()))
        except FileNotFoundError:
            return Positions()
        except msgspec.DecodeError as exc:
            raise InvalidInput(
                f"{self._snapshot}: expected a snapshot of positions, found what does not decode: {exc}"
            ) from exc

    def _replay(self) -> int:
        data = self._path.read_bytes()
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, at)
            payload = data[at + _HEAD.size : at + _HEAD.size + length]
            if length > RECORD_BYTES_MAX or len(payload) < length or zlib.crc32(payload) != crc:
                break
            try:
                execution = _decode(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.undecodable.append(at)
            else:
                if execution.id not in self.positions.seen:
                    self.positions.apply(execution)
            self.records += 1
            at += _HEAD.size + length
        if at < len(data):
            self.torn_bytes = len(data) - at
            os.ftruncate(self._fd, at)
        return at

    def append(self, execution: Execution) -> str:
        """Write, then book; "" or the reason code for which nothing was booked (positions.apply).

        Raises:
            OSError: it could not be written (disk full): nothing is booked, nothing may be acknowledged, and
            it may be tried again.
        """
        payload = _encode(execution)
        record = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        self._tail.append(record)
        self.records += 1
        return self.positions.apply(execution)

    def sync(self) -> None:
        """Raises OSError; nothing may be acknowledged then."""
        if self._tail.dirty or not self._named:
            self._tail.sync()
            if not self._named:
                files.sync_folder(self._path.parent)
                self._named = True

    def fold(self) -> None:
        """Fold the log into a new snapshot and empty it. Raises OSError; the old pair is good then."""
        # POWER: the log may be emptied only when the new snapshot is certain to be the one that is found.
        files.replace(self._snapshot, msgspec.json.encode(self.positions.dump()), Durability.POWER)
        self._tail.empty()
        self.records = 0

    def close(self) -> None:
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1
