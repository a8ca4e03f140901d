"""All examinations of one floor, or of the store that the environment names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

from controlplane import store
from controlplane.doctor import certificates, folders, machine, site
from controlplane.doctor import store as store_looks
from controlplane.doctor.finding import Finding
from controlplane.errors import HftctlError
from controlplane.floor import run_file
from controlplane.floor.folders import Folders
from controlplane.settings import LeadershipSettings
from controlplane.store import Keys, endpoint

PRODUCTION = "production"
"""A site of this name is one, and what --production says is."""


def everything(floor: Folders, site_name: str, url: str | None, *, production: bool) -> list[Finding]:
    """`url`: of the store; None: there is none to look at."""
    found = [*machine.look(_places(floor)), *folders.look(floor)]
    if url is None:
        text = "no floor runs here, and HFT_STORE_ENDPOINTS names no store"
        return [*found, Finding("store.answers", "info", str(floor.site_dir), text, "", "hftctl up")]
    found += certificates.look(_certificates(floor, url))
    return [*found, *asyncio.run(_of_store(url, Keys(site_name), production=production))]


async def _of_store(url: str, keys: Keys, *, production: bool) -> list[Finding]:
    try:
        client = store.connect(url)
    except HftctlError as exc:
        return [
            Finding(
                "store.answers", "critical", url.partition("?")[0], str(exc), "an address that can be used"
            )
        ]
    try:
        profile = LeadershipSettings().profile
        found = await store_looks.look(client, keys, production=production, profile=profile)
        return found + (await site.look(client, keys) if found[0].severity == "ok" else [])
    finally:
        await client.close()


def _places(floor: Folders) -> dict[str, Path]:
    run_dir = floor.run_dir()
    found = {
        "data, logs and journals": _there(floor.site_dir),
        "sockets and shared memory": run_dir if run_dir.exists() else Path("/dev/shm"),
    }
    try:
        run = run_file.read(floor)
    except HftctlError:
        run = None
    if run is not None and run.journal_dir:
        found["journals"] = _there(Path(run.journal_dir))
    return found


def _there(path: Path) -> Path:
    """It, or the first folder above that is there."""
    return next((each for each in (path, *path.parents) if each.exists()), path)


def _certificates(floor: Folders, url: str) -> Iterator[Path]:
    _, _, options = endpoint.split(url)
    yield from (Path(options[name]) for name in ("ca_file", "cert_file") if options.get(name))
    yield from sorted((floor.site_dir / "consul").glob("*.pem"))
