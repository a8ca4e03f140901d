"""The floor's folders: whose they are, who may look in, and what a floor that is dead has left."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from controlplane.doctor.finding import Finding
from controlplane.errors import HftctlError
from controlplane.floor import folders as site_folders
from controlplane.floor import ownership, processes
from controlplane.floor.folders import Folders

NAMED_MAX = 5
FILES_MAX = 20_000


def look(folders: Folders) -> list[Finding]:
    if not folders.site_dir.exists():
        return [Finding("folder.site", "info", str(folders.site_dir), "there is none", "", "hftctl up")]
    return [*of_modes(folders), *of_leftovers(folders)]


def of_modes(folders: Folders) -> Iterator[Finding]:
    site_dir = folders.site_dir
    try:
        ownership.require_own(site_dir)
    except HftctlError as exc:
        yield Finding(
            "folder.owner", "critical", str(site_dir), str(exc), "a folder of this user alone", "chown"
        )
        return
    run_dir = folders.run_dir()
    for top in (site_dir, run_dir):
        wrong = list(_open_to_others(top))
        if wrong:
            names = ", ".join(f"{path} ({mode:04o})" for path, mode in wrong[:NAMED_MAX])
            more = f" and {len(wrong) - NAMED_MAX} more" if len(wrong) > NAMED_MAX else ""
            grave = any(path == top or mode & 0o022 for path, mode in wrong)
            yield Finding(
                "folder.modes",
                "critical" if grave else "warning",
                str(top),
                f"others may reach {names}{more}",
                "0700 for folders, nothing for others",
                f"chmod -R go= {top}",
            )
        elif top.exists():
            yield Finding("folder.modes", "ok", str(top), "this user's alone")


def _open_to_others(top: Path) -> Iterator[tuple[Path, int]]:
    """What another user could reach: of a file, only where every folder above lets him through."""
    try:
        found = top.lstat()
    except OSError:
        return
    if not stat.S_IMODE(found.st_mode) & 0o077:
        return  # nobody comes further than here
    yield top, stat.S_IMODE(found.st_mode)
    count = 0
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            count += 1
            if count > FILES_MAX:
                return
            path = Path(folder) / name
            try:
                mode = path.lstat()
            except OSError:
                continue
            if not stat.S_ISLNK(mode.st_mode) and stat.S_IMODE(mode.st_mode) & 0o077:
                yield path, stat.S_IMODE(mode.st_mode)


def of_leftovers(folders: Folders) -> Iterator[Finding]:
    runs = site_folders.locked(folders.floor_lock)
    living = [] if runs else [*processes.recorded(folders), *processes.marked(folders)]
    if runs:
        yield Finding("floor.runs", "ok", str(folders.site_dir), "hft-floord runs")
    elif living:
        names = ", ".join(sorted({f"{each.instance.split()[0]} {each.pid}" for each in living})[:NAMED_MAX])
        yield Finding(
            "floor.orphans",
            "warning",
            str(folders.site_dir),
            f"hft-floord is dead, and {len(living)} of its processes run on: {names}",
            "a parent that restarts what dies",
            "hftctl up (adopts them), or hftctl down",
        )
    elif folders.floor_json.exists() or folders.run_dir().exists():
        left = [path for path in (folders.floor_json, folders.run_dir()) if path.exists()]
        yield Finding(
            "floor.leftovers",
            "info",
            str(folders.site_dir),
            f"left by a floor that was killed: {', '.join(map(str, left))}",
            "nothing",
            "hftctl up (it clears them), or hftctl down",
        )
