"""A supervisor with real shims and processes, for one test: what it was told, what it has reported, what its
daemons have logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio

from agents import paths
from agents.supervisor import program, runner, supervisor
from controlplane.model import Mode, ServiceSpec

SLEEPER = (
    "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('begun', flush=True); "
    "time.sleep(600)"
)


def spec(
    code: str = SLEEPER, name: str = "bookd", mode: Mode = Mode.SINGLETON, **settings: object
) -> ServiceSpec:
    return ServiceSpec(name, "bookd", mode, ("alpha",), settings={"code": code, **settings})


class Host:
    """One supervisor and what it has reported."""

    def __init__(self, tmp_path: Path, **more: Any) -> None:
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        self.folders = paths.Paths("lab", "alpha", tmp_path / "site", run_dir)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.runner = runner.ShimRunner(
            self.folders,
            log_bytes_max=more.pop("log_bytes_max", runner.LOG_BYTES_MAX),
            report=lambda kind, **fields: self.events.append((kind, fields)),
        )
        self.supervisor = supervisor.Supervisor(
            self.folders,
            self.runner,
            report=lambda kind, **fields: self.events.append((kind, fields)),
            command=lambda spec: (sys.executable, "-c", str(spec.settings["code"])),
            **more,
        )

    def want(self, *specs: ServiceSpec) -> None:
        self.supervisor.want(
            {
                slot: supervisor.Desired(spec, 1, program.of_spec(spec))
                for spec in specs
                for slot in spec.slots()
            }
        )

    def pid(self, instance: str = "bookd-alpha-1") -> int | None:
        found = self.supervisor.instances.get(instance)
        return found.process.pid if found and found.process else None

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def fields(self, kind: str) -> dict[str, Any]:
        return next(fields for seen, fields in reversed(self.events) if seen == kind)

    def log(self, instance: str = "bookd-alpha-1") -> str:
        path = self.folders.log(instance)
        return path.read_text() if path.exists() else ""


@contextlib.asynccontextmanager
async def supervised(host: Host, *, stop: bool = True) -> AsyncIterator[Host]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(host.supervisor.run)
        try:
            yield host
        finally:
            if stop:
                with anyio.CancelScope(shield=True):
                    await host.supervisor.stop_all(grace_s=2)
            tasks.cancel_scope.cancel()


async def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  processes set no event
            await asyncio.sleep(0.005)


def sync(test: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run
