"""`hftctl backup` and `hftctl restore` of a floor: which store is meant, and what of the site folder goes
with it.

The store is that of the floor that runs here; else the one that the command line or the environment names;
else the one that this floor had last, which is started for the time of it where it is the floor's own
(store_alone.py). What a backup is and how it is put back: controlplane/backup.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import getpass
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane import backup, store
from controlplane.backup import schedule
from controlplane.errors import FloorUnreachable, InUse, InvalidInput
from controlplane.floor import claim, embedded, processes, run_file, settling, store_alone
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.floor.run_file import RunFile
from controlplane.store import existing as existing_stores
from controlplane.store.existing import Existing


@dataclass(frozen=True, slots=True)
class Place:
    """A store, and whose it is."""

    url: str
    kind: str
    site: str
    own: bool = False
    """The floor's own, in its site folder."""
    runs: bool = False
    """The floor runs on it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says of it; None: nothing."""

    site: str | None = None
    store: str | None = None
    """Kind."""
    existing: Existing | None = None


def back_up(
    folders: Folders, wanted: Wanted, path: Path | None, say: Callable[[str], None]
) -> tuple[backup.Taken, Path]:
    """Write a backup. `path` None: in the site folder's own backups, by date.

    Raises:
        InvalidInput: the file cannot be written. Refused: there is nothing to back up. FloorUnreachable: no
        floor has ever run here. Unavailable and what else the store raises.
    """
    with _store(folders, wanted, None, "backup", say) as place:
        if path is None:
            named = schedule.name(place.site, time.time_ns())
            path = folders.site_dir / schedule.FOLDER / named
            path.parent.mkdir(mode=0o700, exist_ok=True)
        taken = asyncio.run(_take(place, path))
    return taken, path


async def _take(place: Place, path: Path) -> backup.Taken:
    client = store.connect(place.url)
    try:
        return await backup.take(client, store.Keys(place.site), path, actor=getpass.getuser())
    except OSError as exc:
        raise InvalidInput(f"{path}: cannot be written: {exc.strerror}") from exc
    finally:
        await client.close()


def put_back(
    folders: Folders, wanted: Wanted, path: Path, say: Callable[[str], None], *, force: bool, reason: str
) -> tuple[backup.Restored, Place]:
    """Make the site be what the backup in `path` says, in the store that is meant.

    Raises:
        InvalidInput: the file. InUse: the site runs, or is another floor's. Of both, nothing was changed.
        Unavailable and what else the store raises: perhaps half-way; run it again.
    """
    with backup.file.opened(path) as found:
        mine = claim.read(folders)
        floor = found.header.floor
        if mine and floor and mine != floor and not force:
            raise InUse(
                f"{path}: of the floor {floor[:8]}, and the one in {folders.site_dir} is {mine[:8]}; another "
                "--site-dir, or --force to be that floor"
            )
        with _store(folders, wanted, found.header.site, "restore", say) as place:
            disks = settling.keeper_disks(folders)
            seen = [disk.incarnation for disk in disks]
            seen += [incarnation for disk in disks for incarnation, _ in disk.tokens.values()]
            done = asyncio.run(_put_back(place, found, seen, force=force, reason=reason))
            if floor and floor != mine and folders.site_dir.is_dir():
                claim.keep(folders, floor)
        _remember(folders, place)
    return done, place


async def _put_back(
    place: Place, found: backup.file.Backup, seen: list[int], *, force: bool, reason: str
) -> backup.Restored:
    client = store.connect(place.url)
    try:
        return await backup.restore(
            client,
            store.Keys(place.site),
            found,
            actor=getpass.getuser(),
            reason=reason,
            seen=seen,
            force=force,
        )
    finally:
        await client.close()


def _remember(folders: Folders, place: Place) -> None:
    """A bare `up` goes on with this store: the site's truth is there now."""
    before = _last(folders)
    if place.runs or not folders.site_dir.is_dir():
        return
    url = "" if place.own else place.url
    if before is None or (before.store, before.store_url, before.site) != (place.kind, url, place.site):
        changed = dataclasses.replace(before or RunFile(place.site), store=place.kind, store_url=url)
        run_file.write(folders, dataclasses.replace(changed, site=place.site, hosts=()))


@contextlib.contextmanager
def _store(
    folders: Folders, wanted: Wanted, site: str | None, verb: str, say: Callable[[str], None]
) -> Iterator[Place]:
    """The store that is meant. `site`: that of the file, for a site folder that has none yet."""
    folders.require_ours()
    last = _last(folders)
    site = wanted.site or (last.site if last else None) or site or "lab"
    running = folders.running()
    if running is not None and (processes.recorded(folders) or site_folders.locked(folders.floor_lock)):
        yield _of_floor(folders, wanted, running)
        return
    if wanted.existing is not None:
        url = existing_stores.url(wanted.existing, wanted.store)
        yield Place(url, store.endpoint.split(url)[0], site)
        return
    if last is None and verb == "backup":
        raise FloorUnreachable(
            f"no floor runs in {folders.site_dir}, and none ever has: --site-dir, or --store-endpoints for a "
            "store elsewhere"
        )
    if last is not None and last.store_url and wanted.store in (None, last.store):
        yield Place(last.store_url, last.store, site)
        return
    kind = wanted.store or (last.store if last else embedded.DEFAULT)
    with store_alone.running(folders, kind, f"hftctl {verb}", say) as url:
        yield Place(url, kind, site, own=True)


def _of_floor(folders: Folders, wanted: Wanted, running: dict[str, object]) -> Place:
    """Raises InUse: it runs with another store, or is of another site, than is asked for. FloorUnreachable:
    it names none yet.
    """
    url, said = folders.store_url(), running.get("store")
    kind = str(said.get("kind")) if isinstance(said, dict) else ""
    if url is None:
        raise FloorUnreachable(f"the floor in {folders.site_dir} is only starting: it names no store yet")
    if wanted.store not in (None, kind):
        raise InUse(
            f"site folder {folders.site_dir}: its floor runs with {kind}, not {wanted.store} (hftctl down "
            "first)"
        )
    site = str(running.get("site", ""))
    if wanted.site not in (None, site):
        raise InUse(
            f'site folder {folders.site_dir}: its floor is of site "{site}", not "{wanted.site}" (another '
            "--site-dir, or hftctl down first)"
        )
    own = isinstance(said, dict) and "url" not in said
    return Place(url, kind, site, own=own, runs=True)


def _last(folders: Folders) -> RunFile | None:
    """Of the floor that ran here last; None: none, or a damaged one."""
    with contextlib.suppress(InvalidInput):
        return run_file.read(folders)
    return None
