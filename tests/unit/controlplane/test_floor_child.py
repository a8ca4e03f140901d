"""One process under hft-floord: what cannot be started is said and tried again, and harms nothing else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from controlplane.floor.child import Child

SOON_S = 20.0


def test_a_child_that_cannot_be_started_is_said_and_started_when_it_can(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "run"
    child = Child(
        "store", ["sleep", "60"], tmp_path / "log", os.environ, said.append, lambda: None, folder=folder
    )

    async def case() -> None:
        task = asyncio.create_task(child.supervise())
        async with asyncio.timeout(SOON_S):
            while not said:  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.01)
            assert "store: cannot be started" in said[0] and str(folder) in said[0] and not task.done()
            folder.mkdir()
            while child.process is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        child.stopping = True
        os.kill(child.process.pid, 9)
        await asyncio.wait_for(task, SOON_S)

    asyncio.run(case())
