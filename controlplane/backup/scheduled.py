"""The task of the elected controller that takes backups when they are due (schedule.py).

One that fails is an alarm until one succeeds, with why, since when, and what to do; it is tried again within
a minute. Nothing else of the controller waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import anyio
import anyio.to_thread

from controlplane import store
from controlplane.backup import native, schedule, taking
from controlplane.errors import HftctlError
from controlplane.host import log
from controlplane.model import bounds
from controlplane.model.observed import Alarm

ALARM = "backup.failed"
FIRST_S = 30.0
"""After an election: a floor that is only coming up has other things to do."""
LOOK_S = 1.0
"""At whether this controller is the elected one."""


class Scheduled:
    def __init__(
        self, url: str, keys: store.Keys, settings: schedule.Settings, *, own_store: bool = False
    ) -> None:
        """`own_store`: the store's own snapshot is taken too."""
        self.alarms: tuple[Alarm, ...] = ()
        """One while the last backup failed."""
        self._url, self._keys, self._settings, self._own_store = url, keys, settings, own_store

    def __repr__(self) -> str:
        return f"<Scheduled backups of {self._keys.site} in {self._settings.folder}>"

    async def run(self, elected: Callable[[], bool]) -> None:
        """Until cancelled. A backup that fails, however it does, is an alarm and costs that backup."""
        elected_mono_s: float | None = None
        while True:
            wait_s = LOOK_S
            if not elected():
                elected_mono_s, self.alarms = None, ()  # its successor's, now
            elif elected_mono_s is None:
                elected_mono_s = time.monotonic()
            elif time.monotonic() - elected_mono_s >= min(self._settings.every_s, FIRST_S):
                wait_s = min(LOOK_S, await self._due_in_s()) or await self.once()
            await anyio.sleep(wait_s)

    async def _due_in_s(self) -> float:
        try:
            return await anyio.to_thread.run_sync(
                schedule.due_in_s, self._settings, self._keys.site, time.time()
            )
        except OSError:
            return 0.0  # whoever writes there says what is wrong with the folder

    async def once(self) -> float:
        """Take one now; returns the seconds until the next look."""
        now_ns = time.time_ns()
        try:
            taken = await self._take(now_ns)
        except (HftctlError, OSError) as exc:
            self._failed(exc, now_ns)
            return min(schedule.RETRY_S_MAX, self._settings.every_s)
        if self.alarms:
            log.info("backup.recovered", file=str(taken.path))
            self.alarms = ()
        if taken.left_out:
            log.warning("backup.left_out", file=str(taken.path), keys="; ".join(taken.left_out[:8]))
        log.info("backup.taken", file=str(taken.path), records=taken.records)
        return LOOK_S

    async def _take(self, now_ns: int) -> taking.Taken:
        settings, site = self._settings, self._keys.site
        await anyio.to_thread.run_sync(lambda: settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True))
        client = store.connect(self._url)  # its own: a backup's deadlines are long
        try:
            path = settings.folder / schedule.name(site, now_ns)
            if self._own_store:  # first: the backup is the sign that all of it is done
                client.try_within(taking.LIST_S)
                ending = native.ENDINGS[client.kind]
                await native.take(client, settings.folder / schedule.name(site, now_ns, ending))
            taken = await taking.take(client, self._keys, path, actor="controller")
        finally:
            await client.close()
        await anyio.to_thread.run_sync(schedule.trim, settings, site)
        return taken

    def _failed(self, exc: Exception, now_ns: int) -> None:
        why = str(exc) if isinstance(exc, HftctlError) else f"{exc.filename}: {exc.strerror}"  # type: ignore[attr-defined]
        before = schedule.newest(self._settings, self._keys.site)
        last = "there is none yet" if before is None else f"the last is {before.name}"
        since_ns = self.alarms[0].since_ns if self.alarms else now_ns
        text = (
            f"no backup could be taken since {_iso(since_ns)} ({last}): {why}; what is changed from now on "
            "is in no backup; it is tried again, and `hftctl backup FILE` takes one elsewhere"
        )
        if not self.alarms:
            log.error("backup.failed", reason=why)
        self.alarms = (Alarm(ALARM, "warning", self._keys.site, bounds.cut(text), since_ns),)


def _iso(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
