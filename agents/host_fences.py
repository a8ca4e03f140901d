"""The fences of this host's receivers: shown beside what the store holds, and set to it.

A receiver that runs is asked over its control link, and sets its own; of one that is stopped the file is
changed. Which instances are receivers is known by their file: one without a file has fenced nothing. In a
reset each receiver is looked at BEFORE the store is read, and refuses if it has admitted a claim since: so
what is written is never below a token that the store had given out to whoever was admitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agents import settings
from agents.paths import Paths
from agents.supervisor.states import HAS_PROCESS
from agents.supervisor.supervisor import Instance
from controlplane import model
from controlplane.errors import HftctlError, InvalidInput, Refused, Retryable
from controlplane.model import Process, Token
from controlplane.operations import fence_reset
from controlplane.operations.fence_reset import LOCKED, Held
from controlplane.store import Keys, Store
from hftd.shm import kept_fences
from hftd.shm.kept_fences import NOBODY
from hftd.wire import control

SHARED_FOLDER = {"simd": "simd"}
"""Daemons that keep their fences in a folder of the site, not of the instance (docs/protocol.md, Files)."""


FROM_FILE = -1
"""In place of how many claims were admitted: its process was not running, and no running one agrees to it."""


class Looked(msgspec.Struct):
    """One group's fence as a receiver answers it (the Ask `fences`)."""

    group: str
    incarnation: int
    epoch: int
    claimant: Process
    admitted: int

    @property
    def rank(self) -> tuple[int, int]:
        return (self.incarnation, self.epoch)


class Known(Protocol):
    """What is needed of instances.Instances."""

    def __iter__(self) -> Iterator[Instance]: ...

    async def ask(self, name: str, what: str, args: dict[str, Any], timeout_s: float) -> control.Answer: ...

    async def reset_fence(
        self, name: str, store: Token, claimant: Process, admitted: int, timeout_s: float
    ) -> control.Answer: ...


class HostFences:
    def __init__(self, host: str, paths: Paths, instances: Known, store: Store, keys: Keys) -> None:
        self._host, self._paths, self._instances = host, paths, instances
        self._store, self._keys = store, keys

    async def show(self, service: str) -> list[dict[str, Any]]:
        """One row a receiver that holds a fence of the group.

        Raises:
            Unavailable: the store cannot be read. Refused: it has no epoch of the group.
        """
        looked = await self._look(service)
        store = await fence_reset.held(self._store, self._keys, service)
        return [self._row(instance, found, store) for instance, found in looked]

    async def reset(self, service: str, operation: str) -> list[dict[str, Any]]:
        """Set what is above the store's token, or another's claim of it, to the store's; one row a receiver,
        with its outcome. Raises as `show`, and Refused: no such operation is under way.
        """
        await fence_reset.check_running(self._store, self._keys, operation, service)
        looked = await self._look(service)
        store = await fence_reset.held(self._store, self._keys, service)
        return list(
            await asyncio.gather(*(self._reset(instance, found, store) for instance, found in looked))
        )

    # --- looking --------------------------------------------------------------------------------------------

    async def _look(self, service: str) -> list[tuple[Instance, Looked | str]]:
        """Receivers with a fence of the group; a text says why one could not be asked."""
        receivers = [instance for instance in self._instances if self._file(instance).exists()]
        found = await asyncio.gather(*(self._look_at(instance, service) for instance in receivers))
        return [(instance, each) for instance, each in zip(receivers, found, strict=True) if each is not None]

    async def _look_at(self, instance: Instance, service: str) -> Looked | str | None:
        try:
            if instance.state in HAS_PROCESS:
                answer = await self._instances.ask(instance.id, "fences", {}, settings.ASK_TIMEOUT_S)
                rows = msgspec.convert(answer.body, list[Looked]) if answer.ok else []
            else:
                rows = [
                    Looked(group, row.incarnation, row.epoch, row.claimant, FROM_FILE)
                    for group, row in kept_fences.read(self._file(instance)).items()
                ]
        except msgspec.ValidationError as exc:
            return f"its answer is no list of fences: {exc}"
        except (Retryable, InvalidInput) as exc:
            return str(exc)
        return next((row for row in rows if row.group == service), None)

    def _file(self, instance: Instance) -> Path:
        daemon = instance.desired.spec.daemon if instance.desired else ""
        shared = SHARED_FOLDER.get(daemon)
        folder = self._paths.site_dir / shared if shared else self._paths.data(instance.id)
        return folder / "fences.json"

    def _row(self, instance: Instance, found: Looked | str, store: Held) -> dict[str, Any]:
        row: dict[str, Any] = {
            "instance": instance.id,
            "host": self._host,
            "running": instance.state in HAS_PROCESS,
        }
        if isinstance(found, str):
            return {
                **row,
                "incarnation": None,
                "epoch": None,
                "claimant": None,
                "stands": f"not known: {found}",
            }
        return {
            **row,
            "incarnation": found.incarnation,
            "epoch": found.epoch,
            "claimant": found.claimant.instance or None,
            "stands": fence_reset.stands(found.rank, found.claimant, store),
        }

    # --- setting --------------------------------------------------------------------------------------------

    async def _reset(self, instance: Instance, found: Looked | str, store: Held) -> dict[str, Any]:
        row = self._row(instance, found, store)
        if isinstance(found, str):
            return {**row, "outcome": "failed", "reason": found}
        if row["stands"] not in LOCKED:
            return {**row, "outcome": "kept", "reason": ""}
        try:
            await self._set(instance, found, store)
        except HftctlError as exc:
            return {**row, "outcome": "failed", "reason": str(exc)}
        except OSError as exc:
            return {**row, "outcome": "failed", "reason": f"{self._file(instance)}: {exc.strerror or exc}"}
        return {**row, "outcome": "reset", "reason": ""}

    async def _set(self, instance: Instance, found: Looked, store: Held) -> None:
        """Raises Refused, Retryable, OSError, InvalidInput."""
        claimant = store.holder or NOBODY
        if instance.state in HAS_PROCESS:
            answer = await self._instances.reset_fence(
                instance.id, store.token, claimant, found.admitted, settings.ASK_TIMEOUT_S
            )
            if not answer.ok:
                raise Refused(str(answer.body))
            return
        # Nothing is awaited from here on, so no process of the instance begins before the file is written.
        path = self._file(instance)
        if found.admitted != FROM_FILE:
            raise Refused(f"{instance.id}: its process has ended meanwhile; look again")
        rows = kept_fences.read(path)
        row = rows.get(found.group)
        if row is None or (row.rank, row.claimant) != (found.rank, found.claimant):
            raise Refused(f"{path}: changed meanwhile; look again")
        rows[found.group] = kept_fences.Row(*store.token.rank, claimant)
        kept_fences.write(path, rows)


def decode_rows(body: bytes) -> list[dict[str, Any]]:
    """Another agent's answer. Raises Retryable."""
    try:
        found = model.decode(list[dict[str, Any]], body)
    except msgspec.DecodeError as exc:
        raise Retryable(f"its agent's answer does not decode: {exc}") from exc
    wanted: Mapping[str, Any] = {"instance": None, "outcome": "failed", "reason": "not said"}
    return [{**wanted, **row} for row in found]
