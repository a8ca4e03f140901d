"""The site's secret, agreed on between hosts: the store's wins, and the first host that finds none there puts
its own.

Hosts of `up` share a site folder and so the file; hosts with folders of their own find each other through
the store, which is then as secret as its access control makes it. Done before daemons and keeper start, as
both read the file. While the store cannot be read the local secret is in force, and `keep_agreeing` asks on.
No log line, event or alarm has the secret in it; a record of another size is not one and is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from controlplane.errors import HftctlError, InvalidInput
from controlplane.host import secret
from controlplane.store import Committed, Keys, Store

START_S = 1.0
"""For the first try, which daemons wait for; the store's own deadline of one try is 0.3 s."""
START_TRIES = 2
"""A second one for the host that was not the first to put its own."""
RETRY_S = 5.0


class SiteSecret:
    def __init__(
        self,
        site_dir: Path,
        store: Store,
        keys: Keys,
        *,
        report: Callable[..., None],
        alarm: Callable[[str, str], None],
    ) -> None:
        """`alarm(id, text)`: an empty text clears it."""
        self._site_dir, self._store, self._keys = site_dir, store, keys
        self._report, self._alarm = report, alarm
        self.agreed = False
        self._daemons_run = False

    async def at_start(self) -> None:
        """At most START_S, before daemons and keeper are started."""
        with anyio.move_on_after(START_S):
            for _ in range(START_TRIES):
                if not self.agreed:
                    await self._try()
        self._daemons_run = True

    async def keep_agreeing(self) -> None:
        """Runs until cancelled. Tries until it is agreed, and again when this host's file is damaged or gone:
        a daemon that starts needs it.
        """
        while True:
            await anyio.sleep(RETRY_S)
            if not self.agreed or not await anyio.to_thread.run_sync(self._whole):
                await self._try()

    async def _try(self) -> None:
        try:
            await self._agree()
            self.agreed = await self._agree()
        except (InvalidInput, OSError) as exc:
            self._alarm("site.secret", f"the site's secret is not agreed on: {exc}")
        except HftctlError:
            pass  # the store is away, which has an alarm of its own
        else:
            self._alarm("site.secret", "")

    async def _agree(self) -> bool:
        """False: another host was first, look again. Raises InvalidInput (the file is damaged and the store
        has none), HftctlError, OSError.
        """
        key = self._keys.secret
        entry = await self._store.get(key)
        local, damage = await anyio.to_thread.run_sync(self._local)
        if entry is not None and len(entry.value) == secret.SECRET_BYTES:
            if entry.value != local:
                await anyio.to_thread.run_sync(secret.put, self._site_dir, entry.value)
                self._say_replaced(damage)
            return True
        if local is None:
            raise InvalidInput(damage)
        if entry is not None:
            self._report("secret.record_damaged", key=key, bytes=len(entry.value), replaced_by="this host's")
        outcome = await self._store.put(key, local, expect=entry.revision if entry else 0)
        return isinstance(outcome, Committed)

    def _whole(self) -> bool:
        try:
            return secret.read(self._site_dir) is not None
        except (InvalidInput, OSError):
            return False

    def _local(self) -> tuple[bytes | None, str]:
        try:
            return secret.read_or_make(self._site_dir), ""
        except InvalidInput as exc:
            return None, str(exc)

    def _say_replaced(self, damage: str) -> None:
        means = "daemons that run already have the one before until they restart" if self._daemons_run else ""
        self._report("secret.replaced", by="the store's", before=damage or "another", consequence=means)
