"""Whose site it is: the record `site` in the store names one floor, and a floor of another id is refused.

Two floors of one site name in one store would run each other's services and take each other's leads. So `up`
puts its own id there by compare-and-swap before anything of it runs, keeps it in `floor.id` of its site
folder, and finds it again; `--join` takes over the id that stands there. The embedded store is its site
folder's own: what stands in it is believed, and rubbish there is written over.
"""

from __future__ import annotations

import getpass
import re
import socket
import time
import uuid

import msgspec

from controlplane import backup, model, store
from controlplane.errors import InUse, InvalidInput, Refused, Unavailable
from controlplane.floor.folders import Folders
from controlplane.host import files
from controlplane.model import bounds
from controlplane.model.records import SiteRecord

FILE = "floor.id"
TRIES = 3
"""Of the compare-and-swap: another `up` of the same new site may be a moment earlier."""
_ID = re.compile(r"[0-9a-f]{32}")


async def claim(
    client: store.Store, keys: store.Keys, folders: Folders, *, join: bool = False, own_store: bool = False
) -> bool:
    """Make the site this floor's, or find that it is. True: its id is another one's, taken over by `join`.

    Raises:
        InUse: it is another floor's; nothing was changed. InvalidInput: the record does not decode.
        Refused: a backup was put back in part only. Unavailable, Denied: the store.
    """
    if restoring := await backup.half_way(client, keys):
        raise Refused(restoring)
    mine = read(folders)
    for _ in range(TRIES):
        entry = await client.get(keys.site_record)
        found = None if entry is None else _decoded(keys, entry, or_none=own_store)
        if found is None:
            mine = mine or uuid.uuid4().hex
            keep(folders, mine)  # before the store has it: a crash in between leaves no site without a floor
            record = SiteRecord(mine, getpass.getuser(), socket.gethostname(), time.time_ns())
            expect = entry.revision if entry else 0
            done = await client.put(keys.site_record, model.encode(record), expect=expect)
            if isinstance(done, store.Committed):
                return False
            continue
        if found.floor == mine:
            return False
        if not (join or own_store):
            raise InUse(_refusal(keys.site, found, mine, folders))
        keep(folders, found.floor)
        return join and not own_store
    raise Unavailable(
        f'site "{keys.site}": its record in the store changed {TRIES} times meanwhile; try again'
    )


async def hosts_at_work(client: store.Store, keys: store.Keys) -> list[str]:
    """Hosts that have an agent now, by their leased records."""
    return sorted(key.removeprefix(keys.hosts) for key in (await client.range(keys.hosts)).entries)


def _refusal(site: str, found: SiteRecord, mine: str, folders: Folders) -> str:
    since = time.strftime("%Y-%m-%d", time.gmtime(found.created_ns / 1e9))
    whose = f"the floor {found.floor[:8]} (made by {found.by} on {found.host}, {since})"
    own = f"this one is {mine[:8]}" if mine else f"there is no id of it in {folders.site_dir / FILE}"
    return (
        f'site "{site}": this store has it already, of {whose}, and {own}: two floors of one name would run '
        "each other's services; another --site, or --join to be that floor's"
    )


def _decoded(keys: store.Keys, entry: store.Entry, *, or_none: bool) -> SiteRecord | None:
    try:
        return model.decode(SiteRecord, entry.value)
    except msgspec.DecodeError as exc:
        if or_none:
            return None
        raise InvalidInput(
            f"{keys.site_record} in the store: found {bounds.cut(repr(entry.value), 80)}, wanted the "
            f"record of a site ({bounds.cut(str(exc), 200)}); was it written by another program?"
        ) from exc


def read(folders: Folders) -> str:
    """The floor's own id. Empty: there is none, or none that is one."""
    try:
        found = files.read_regular(folders.site_dir / FILE).decode(errors="replace").strip()
    except OSError:
        return ""
    return found if _ID.fullmatch(found) else ""


def keep(folders: Folders, floor: str) -> None:
    """This site folder's floor is that one from now on. Raises InUse: its disk does not take the file."""
    path = folders.site_dir / FILE
    try:
        files.replace(path, f"{floor}\n".encode(), files.Durability.POWER, mode=0o600)
    except OSError as exc:
        raise InUse(
            f"{path}: found {exc.strerror}, wanted room for the floor's id; without it the site would be "
            "nobody's, so nothing was started (make room, or choose another --site-dir)"
        ) from exc
