"""The site's secret: 32 random bytes in the site folder, 0600, from which the keys of pings, approvals and
claims are derived. Who can read it is trusted as the floor's user is; who cannot, forges neither.

The first process that needs it makes it. Hosts with site folders of their own agree on one through the store,
which is then as secret as the store's access control makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability

SECRET_BYTES = 32
NAME = "site.key"


def read_or_make(site_dir: Path) -> bytes:
    """The site's secret; two that make it at once end with the same one.

    Raises:
        InvalidInput: the file is not a secret of ours: names it, what was found, and what to do.
        OSError: it can be neither read nor made.
    """
    path = site_dir / NAME
    with contextlib.suppress(FileNotFoundError):
        return read(site_dir)
    fresh = path.with_name(f".{NAME}.{os.getpid()}.{threading.get_native_id()}.made")
    files.replace(fresh, secrets.token_bytes(SECRET_BYTES), Durability.POWER, mode=0o600)
    try:
        with contextlib.suppress(FileExistsError):  # another was first: theirs counts
            os.link(fresh, path)
            files.sync_folder(site_dir)
    finally:
        fresh.unlink()
    return read(site_dir)


def read(site_dir: Path) -> bytes:
    """The site's secret, which somebody has made. Raises as `read_or_make`; FileNotFoundError: nobody has."""
    return _read(site_dir / NAME)


def put(site_dir: Path, secret: bytes) -> None:
    """Keep the secret that the site has agreed on. Raises OSError."""
    files.replace(site_dir / NAME, secret, Durability.POWER, mode=0o600)


def derived(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose (RFC 7693, keyed BLAKE2b): knowing it tells nothing of the others."""
    return hashlib.blake2b(purpose.encode(), key=secret, digest_size=SECRET_BYTES).digest()


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(fd)
        content = os.read(fd, SECRET_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
    finally:
        os.close(fd)
    heal = "take the floor down, remove the file, and the next start makes another"
    if not stat.S_ISREG(found.st_mode) or len(content) != SECRET_BYTES:
        raise InvalidInput(f"{path}: found no file of exactly {SECRET_BYTES} random bytes; {heal}")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise InvalidInput(
            f"{path}: mode {stat.S_IMODE(found.st_mode):04o} of uid {found.st_uid}; must be 0600 and of uid "
            f"{os.geteuid()}. Others may know it: {heal}"
        )
    return content
