"""The snapshot that the store's own tools restore (`etcdutl snapshot restore`, `consul snapshot restore`):
the whole store, other programs' keys, leases and access control too. Taken where the store is the floor's
own.

It is no way from one kind of store to the other, and it takes a store back without raising its incarnation:
docs/operations.md says when to use which.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import anyio.to_thread

from controlplane.errors import Refused
from controlplane.host import files
from controlplane.store import Store

DIGEST_BYTES = 32
"""etcd ends a snapshot with the SHA-256 of what is before it."""
PAGE_BYTES = 512
"""Of etcd's database; what is over whole pages is the digest."""
SUMS = "SHA256SUMS"
ENDINGS = {"etcd": "etcd.db", "consul": "consul.snap"}
"""What the name of a snapshot ends with."""


@runtime_checkable
class Snapshots(Protocol):
    def snapshot(self) -> AsyncIterator[bytes]:
        """The store's own snapshot, in parts. Raises Unavailable, Denied."""


async def take(store: Store, path: Path) -> None:
    """Write the snapshot to `path`, whole and checked, or not at all.

    Raises:
        Refused: what came is not whole, or this store takes none. OSError: the file. Unavailable, Denied: the
        store.
    """
    if not isinstance(store, Snapshots):
        raise Refused(f"store {store.kind}: it takes no snapshots")
    with files.replacing(path) as out:
        async for part in store.snapshot():
            out.write(part)
        check = {"etcd": check_etcd, "consul": check_consul}[store.kind]
        await anyio.to_thread.run_sync(check, out, path)


def check_etcd(found: IO[bytes], named: Path) -> None:
    """Raises Refused: it is not whole. OSError."""
    size = found.seek(0, os.SEEK_END)
    if size % PAGE_BYTES != DIGEST_BYTES:
        raise Refused(f"{named}: the store's snapshot was cut: {size} bytes, no digest at its end")
    digest, left = hashlib.sha256(), size - DIGEST_BYTES
    found.seek(0)
    while left:
        part = found.read(min(left, files.PIECE_BYTES))
        if not part:
            raise Refused(f"{named}: the store's snapshot was cut while it was read")
        digest.update(part)
        left -= len(part)
    if found.read() != digest.digest():
        raise Refused(f"{named}: the store's snapshot is damaged: its SHA-256 is another one")


def check_consul(found: IO[bytes], named: Path) -> None:
    """Raises Refused: it is not whole. OSError."""
    found.seek(0)
    sums: dict[str, str] = {}
    wanted: dict[str, str] = {}
    try:
        with gzip.open(found) as unpacked:
            with tarfile.open(fileobj=unpacked, mode="r:") as archive:
                for member in archive:
                    source = archive.extractfile(member)
                    if source is None:
                        continue
                    content = source.read()
                    if member.name == SUMS:
                        rows = (line.partition(" ") for line in content.decode().splitlines())
                        wanted = {name.strip(): digest for digest, _, name in rows}
                    else:
                        sums[member.name] = hashlib.sha256(content).hexdigest()
            while unpacked.read(1 << 20):
                pass  # to its end, where its own checksum is
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as exc:
        raise Refused(f"{named}: the store's snapshot is no whole archive: {exc}") from exc
    if not wanted or any(sums.get(name) != digest for name, digest in wanted.items()):
        raise Refused(f"{named}: the store's snapshot is damaged: its SHA-256 sums are others")
