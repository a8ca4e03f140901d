"""Where a floor lives: the site folder that it keeps, and the run folder of sockets and pages that ends with
it (host/run_folder.py). Imports nothing heavy: every `hftctl` verb comes through here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.errors import InUse
from controlplane.host import files

ROOT = 0


def default_site_dir() -> Path:
    """HFT_SITE_DIR, else under XDG_STATE_HOME."""
    if given := os.environ.get("HFT_SITE_DIR"):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hftctl" / "floor"


class Folders:
    """Paths of one floor. Making one touches nothing; `create` does."""

    def __init__(self, site_dir: Path | str) -> None:
        self.site_dir = Path(site_dir).expanduser().resolve()

    def __repr__(self) -> str:
        return f"Folders({self.site_dir})"

    @property
    def floor_json(self) -> Path:
        """What runs: written by hft-floord, atomically; gone when the floor is down."""
        return self.site_dir / "floor.json"

    @property
    def run_json(self) -> Path:
        """Which processes shall run: written by `hftctl up`, read by hft-floord at each change."""
        return self.site_dir / "run.json"

    @property
    def desired_json(self) -> Path:
        """What run.json was to an earlier hftctl; read once (run_file.py), written no more."""
        return self.site_dir / "desired.json"

    @property
    def floor_lock(self) -> Path:
        return self.site_dir / "floor.lock"

    @property
    def services(self) -> Path:
        """A copy of the services file that `hftctl up` applied last: what a bare `up` reads when the
        operator's own is gone. What runs is in the store.
        """
        return self.site_dir / "services.yml"

    @property
    def logs(self) -> Path:
        return self.site_dir / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    @property
    def hosts(self) -> Path:
        return self.site_dir / "hosts"

    def host(self, host: str) -> Path:
        return self.hosts / host

    def run_dir_wanted(self) -> Path:
        """Where a new run folder of this site folder goes."""
        from controlplane.host import run_folder  # a reading verb finds it in floor.json

        return run_folder.default(self.site_dir)

    def run_dir(self) -> Path:
        """Of the floor that runs, as it said; else where a new one would be."""
        found = self.running()
        return Path(found["run_dir"]) if found and "run_dir" in found else self.run_dir_wanted()

    def running(self) -> dict[str, Any] | None:
        """floor.json, or None when there is none (or it is not readable as such: a floor writes it whole)."""
        return read_json(self.floor_json)

    def require_ours(self) -> None:
        """Raises InUse naming the user whose floor it is, where that is neither this one nor root asks."""
        me = os.geteuid()
        if me == ROOT:
            return
        for folder in (*reversed(self.site_dir.parents), self.site_dir):
            try:
                found = folder.stat()
            except OSError:
                return  # there is no such folder
            if found.st_uid != me and (folder == self.site_dir or not os.access(folder, os.X_OK)):
                raise InUse(
                    f"the floor in {self.site_dir} belongs to {user(found.st_uid)}, and you are {user(me)}: "
                    "only its own user and root may ask or change it (another floor: --site-dir)"
                )

    def store_url(self) -> str | None:
        """Where the floor's store answers, for `store.connect`; None when no floor says so."""
        said = (self.running() or {}).get("store") or {}
        return url_of(said) if said.get("endpoints") else None

    def agent_socket(self, host: str) -> Path:
        return self.run_dir() / f"{host}.agent.sock"

    def create(self) -> None:
        """Make the site folder's own folders.

        Raises:
            InUse: something that is not a folder of ours is in the way.
        """
        try:
            for folder in (
                self.site_dir,
                self.logs,
                self.hosts,
                self.site_dir / "data",
                self.site_dir / "simd",
                self.site_dir / "audit",
            ):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.site_dir, os.W_OK | os.X_OK):
                raise PermissionError(13, "not writable by this user")
        except OSError as exc:
            raise InUse(
                f"site folder {self.site_dir}: {exc.strerror} (choose another with --site-dir)"
            ) from exc


read_json = files.read_json


def url_of(said: Mapping[str, Any]) -> str:
    """For `store.connect`, of what floor.json says of the store."""
    if existing := said.get("url"):
        return str(existing)
    url = f"{said['kind']}://{','.join(said['endpoints'])}"
    if token := said.get("token_file"):
        from urllib.parse import quote  # a folder's name may have "&" and "?" in it

        url += f"?token_file={quote(str(token))}"
    return url


def user(uid: int) -> str:
    import pwd  # here: a verb needs it only where it is refused

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, whole, also after a power cut. Raises OSError."""
    files.replace(path, content, files.Durability.POWER)


def locked(path: Path) -> bool:
    """True while a process holds it."""
    from controlplane.host import locks  # here: most verbs need no lock

    return locks.held(path)


def lock_holder(path: Path) -> int | None:
    """Pid of the process that holds a lock; None when none does, or none that is visible here."""
    from controlplane.host import locks

    holder = locks.held_by(path)
    return holder.pid if holder else locks.flocked_by(path)
