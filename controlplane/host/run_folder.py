"""The run folder of a floor: sockets and shared pages on tmpfs, for this user alone.

Its default place depends on the user and the site folder and on nothing of the environment: a cron job, sudo
and a login shell mean the same one. A systemd login manager may remove it when the user logs out (RemoveIPC,
logind.conf(5)): `ends_at_logout` says so beforehand. Whatever removes it, those who live in it make it again
(floor/floord.py, agents/keeper, hftd/bus).
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from controlplane.errors import InUse

HASH_DIGITS = 10
"""AF_UNIX paths end at 107 bytes: the folder's name is short and hashed."""
SHARED_MEMORY = Path("/dev/shm")
LOGIND = Path("/run/systemd/users")
"""Is there where systemd-logind runs."""
LINGERING = Path("/var/lib/systemd/linger")
"""A file for each user whose session never ends (loginctl enable-linger)."""
LOGIND_CONF = (
    "/usr/lib/systemd/logind.conf",
    "/etc/systemd/logind.conf",
    "/usr/lib/systemd/logind.conf.d",
    "/run/systemd/logind.conf.d",
    "/etc/systemd/logind.conf.d",
)
"""In the order in which a later one wins, near enough (systemd sorts the drop-ins of all folders by name)."""
SYSTEM_UID_MAX = 999
"""Of users that RemoveIPC leaves alone: the kernel's and the distribution's own (root is one)."""


def default(site_dir: Path) -> Path:
    digits = hashlib.sha256(str(site_dir).encode()).hexdigest()[:HASH_DIGITS]
    return SHARED_MEMORY / f"hft-{os.geteuid()}-{digits}"


def make(run: Path) -> Path:
    """Make it, or take an existing one that is this user's alone.

    Raises:
        InUse: it belongs to another user, or is not a folder, or cannot be made.
    """
    try:
        run.mkdir(mode=0o700, exist_ok=True)
        found = run.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise InUse(f"run folder {run}: not a folder of user {os.geteuid()}")
        run.chmod(0o700)
    except OSError as exc:
        raise InUse(f"run folder {run}: {exc.strerror}") from exc
    return run


def ends_at_logout() -> str:
    """Why a run folder of this user in shared memory does not survive the end of its last session; empty: it
    does.
    """
    uid = os.geteuid()
    if uid <= SYSTEM_UID_MAX or not LOGIND.is_dir() or not _removes_ipc():
        return ""
    name = _name(uid)
    if (LINGERING / name).exists():
        return ""
    return (
        f"this floor does not survive a logout unharmed: when {name} logs out, the login manager removes "
        f"that user's files from {SHARED_MEMORY} (RemoveIPC) and every daemon has to be restarted; "
        f"`loginctl enable-linger {name}` prevents that"
    )


def _name(uid: int) -> str:
    import pwd  # as is the next: `hftctl up` alone asks

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _removes_ipc() -> bool:
    """RemoveIPC= of logind.conf: yes where nothing says otherwise."""
    import configparser

    said = True
    for place in map(Path, LOGIND_CONF):
        for path in sorted(place.glob("*.conf")) if place.is_dir() else [place]:
            parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
            try:
                parser.read(path)
                said = parser.getboolean("Login", "RemoveIPC", fallback=said)
            except (configparser.Error, ValueError, OSError, UnicodeDecodeError):
                continue  # logind skips what it cannot read as well
    return said
