"""The oldest operations, moved from the store to the elected controller's disk: JSON lines, as in the store,
in files that rotate. `hftctl op list --archived` reads them (cli/op.py).

Promises: one is on the disk, synced, before it leaves the store; a crash in between leaves it in both, once
more in the archive, and readers take the last. What is still running is never moved.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from controlplane import model
from controlplane.errors import HftctlError
from controlplane.host import files, log
from controlplane.model import bounds, records
from controlplane.model.observed import Alarm
from controlplane.operations.log import KEPT_MAX, surplus
from controlplane.store import Compare, Delete, Keys, Store

FOLDER = "operations"
"""In the site folder."""
PREFIX, SUFFIX = "operations-", ".jsonl"
"""Of its files; between them when each was begun, UNIX ns in 20 digits."""
BYTES_MAX = 8 << 20
FILES_MAX = 16
"""128 MiB: some 200,000 operations with a few steps each."""
LOOK_S = 5.0
BATCH = 30
"""Moved in one transaction: a compare and a delete each."""
ALARM = "operations.unarchived"


class Archive:
    """A task of the controller."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        site_dir: Path,
        *,
        kept_max: int = KEPT_MAX,
        bytes_max: int = BYTES_MAX,
        files_max: int = FILES_MAX,
    ) -> None:
        self.alarms: tuple[Alarm, ...] = ()
        """One while the disk does not take them."""
        self._store, self._keys, self._kept_max = store, keys, kept_max
        self._folder = site_dir / FOLDER
        self._bytes_max, self._files_max = bytes_max, files_max

    def __repr__(self) -> str:
        return f"<Archive {self._folder}>"

    async def run(self, elected: Callable[[], bool]) -> None:
        """Until cancelled. A store that is away, or a disk that takes nothing, costs that look."""
        while True:
            await anyio.sleep(LOOK_S)
            if elected():
                await self.once()
            else:
                self.alarms = ()

    async def once(self) -> int:
        """Move what is beyond the bound; returns how many left the store."""
        moved = 0
        try:
            rows = await surplus(self._store, self._keys, self._kept_max)
            for at in range(0, len(rows), BATCH):
                batch = rows[at : at + BATCH]
                await anyio.to_thread.run_sync(self._append, [record for record, _ in batch])
                for _, entry in batch:  # each by itself: one that was settled meanwhile stays
                    await self._store.txn([Compare(entry.key, entry.revision)], [Delete(entry.key)])
                    moved += 1
        except OSError as exc:
            self._failed(exc)
        except HftctlError:
            pass  # the store is away, which has alarms of its own
        else:
            self.alarms = ()
        return moved

    def _append(self, found: Sequence[records.OperationRecord]) -> None:
        """Raises OSError: they are not on the disk."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = files_of(self._folder)
        path = kept[-1] if kept else None
        if path is None or path.stat().st_size >= self._bytes_max:
            path = self._folder / f"{PREFIX}{time.time_ns():020d}{SUFFIX}"
            for old in kept[: max(0, len(kept) + 1 - self._files_max)]:
                old.unlink()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            torn = bool(size) and os.pread(fd, 1, size - 1) != b"\n"  # of a power cut
            lines = b"".join(model.encode(each) + b"\n" for each in found)
            try:
                files.write_all(fd, b"\n" * torn + lines)
                os.fsync(fd)
            except OSError as exc:
                os.ftruncate(fd, size)
                raise OSError(exc.errno, exc.strerror, str(path)) from exc
            files.sync_folder(self._folder)
        finally:
            os.close(fd)

    def _failed(self, exc: OSError) -> None:
        now_ns = time.time_ns()
        since_ns = self.alarms[0].since_ns if self.alarms else now_ns
        text = (
            f"{exc.filename or self._folder}: {exc.strerror}: operations beyond the newest {self._kept_max} "
            "stay in the store, and with 1,000 there the oldest are lost; make room, or put the folder right"
        )
        if not self.alarms:
            log.error("operations.unarchived", path=str(self._folder), reason=exc.strerror or str(exc))
        self.alarms = (Alarm(ALARM, "warning", self._keys.site, bounds.cut(text), since_ns),)


def files_of(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))
