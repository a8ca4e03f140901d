"""Whose a site folder is. What lies in it is believed: which processes are the floor's, where their sockets
are, what runs. So nobody but its user, and root, may be able to write it, or to put another in its place.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from controlplane.errors import InUse
from controlplane.floor.folders import ROOT, user

OF_A_FLOOR = frozenset({"floor.lock", "floor.json", "run.json", "desired.json"})
"""One of these is in every site folder."""


def require_own(site_dir: Path) -> None:
    """Check the folder and every one above it, links resolved; nothing is changed.

    Raises:
        InUse: names the folder, whose it is and what to do.
    """
    resolved = site_dir.resolve()
    for folder in reversed(resolved.parents):
        _require_safe(folder, resolved)
    try:
        found = resolved.lstat()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise InUse(f"site folder {resolved}: {exc.strerror} (choose another with --site-dir)") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise InUse(f"site folder {resolved}: not a folder (choose another with --site-dir)")
    if found.st_uid != os.geteuid():
        raise InUse(
            f"site folder {resolved}: belongs to {user(found.st_uid)}, and you are {user(os.geteuid())}; "
            "what lies in it would be run and ended as you (choose another with --site-dir, or be that user)"
        )


def make_own(site_dir: Path) -> None:
    """The same, and a site folder that others may look into, as those of the first releases, is made 0700.

    Raises:
        InUse: as `require_own`; or others may look into it, and it holds what is not a floor's: its mode is
            somebody's wish (/etc, a home), and not ours to change.
    """
    require_own(site_dir)
    resolved = site_dir.resolve()
    if not resolved.is_dir() or not resolved.stat().st_mode & 0o077:
        return
    names = {path.name for path in resolved.iterdir()}
    if names and not names & OF_A_FLOOR:
        raise InUse(
            f"site folder {resolved}: holds other things than a floor's, and others may look into it (choose "
            "an empty folder with --site-dir, or one of mode 0700)"
        )
    resolved.chmod(0o700)


def _require_safe(folder: Path, site_dir: Path) -> None:
    try:
        found = folder.stat()
    except OSError:
        return  # not there yet, or not to be seen: then making the site folder says so
    if found.st_uid not in (ROOT, os.geteuid()):
        raise InUse(
            f"site folder {site_dir}: {folder} above it belongs to {user(found.st_uid)}, who could put "
            "another in its place (choose another with --site-dir)"
        )
    shared = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _private(found.st_gid))
    if shared and not found.st_mode & stat.S_ISVTX:
        raise InUse(
            f"site folder {site_dir}: {folder} above it can be written by others (mode "
            f"{stat.S_IMODE(found.st_mode):04o}), who could put another in its place (choose another with "
            "--site-dir)"
        )


def _private(gid: int) -> bool:
    """A group of this user alone, as many systems make one for each user; or root's."""
    if gid == ROOT:
        return True
    try:
        me, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return me.pw_gid == gid and group.gr_name == me.pw_name and set(group.gr_mem) <= {me.pw_name}
