"""auditd's Ed25519 keys as files: the private one (PKCS #8 in PEM, mode 0600) in its data folder, the public
one (SubjectPublicKeyInfo in PEM, as `openssl pkey -pubin` reads it) beside the log.

A private key that others can read, or that does not decode, is not used: `load` says why, and the caller sets
it aside and begins another (audit_signer.py). Imports `cryptography`, so a verb imports this only when it
runs.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd.engine import audit_statement

FILE_BYTES_MAX = 65_536
"""A private key takes 119 bytes, a public one 113."""

_PUBLIC_BLOCK = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Unusable:
    why: str
    """damaged: it does not decode. exposed: others could have read or replaced it. unreadable: it cannot be
    judged now (permissions, descriptors, the disk), so it stays where it is."""
    text: str


class Key:
    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self.id = audit_statement.key_id(self.public)

    @classmethod
    def generate(cls) -> Key:
        return cls(Ed25519PrivateKey.generate())

    def sign(self, message: bytes) -> str:
        """64 bytes as hex."""
        return self._private.sign(message).hex()

    def write(self, path: Path) -> None:
        """Survives a power cut once it has returned. Raises OSError."""
        pem = self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        files.replace(path, pem, Durability.POWER, mode=0o600)

    def __repr__(self) -> str:
        return f"Key({self.id[:16]}...)"


def load(path: Path) -> Key | Unusable | None:
    """The key at `path`; None when there is no file."""
    try:
        # Not through a link, and without waiting for the writer of a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return Unusable("exposed", f"{path}: a link, not a file")
        return Unusable("unreadable", f"{path}: {exc.strerror}")
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return Unusable("damaged", f"{path}: not a regular file")
        if found.st_uid != os.geteuid():
            return Unusable("exposed", f"{path}: belongs to user {found.st_uid}, not to {os.geteuid()}")
        if found.st_mode & 0o077:
            return Unusable("exposed", f"{path}: mode {stat.S_IMODE(found.st_mode):04o}, 0600 expected")
        content = os.read(fd, FILE_BYTES_MAX)
    except OSError as exc:
        return Unusable("unreadable", f"{path}: {exc.strerror}")
    finally:
        os.close(fd)
    try:
        private = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Unusable("damaged", f"{path}: not a private key in PEM")
    if not isinstance(private, Ed25519PrivateKey):
        return Unusable("damaged", f"{path}: not an Ed25519 key")
    return Key(private)


def public_pem(public: bytes) -> bytes:
    return Ed25519PublicKey.from_public_bytes(public).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_beside(path: Path) -> bytes:
    """What audit.pub holds, where others may have put anything: not through a link, nor waiting for a FIFO.
    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.read(fd, FILE_BYTES_MAX)
    finally:
        os.close(fd)


def read_public(path: Path) -> list[bytes]:
    """The public keys in a file, 32 bytes each: one block of PEM or several.

    Raises:
        InvalidInput: it cannot be read, holds no key, or one that is not an Ed25519 public key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX)
    except OSError as exc:
        raise InvalidInput(f"audit key {path}: cannot be read ({exc.strerror or exc})") from exc
    return parse_public(path, content)


def parse_public(path: Path, content: bytes) -> list[bytes]:
    """The same, of what was read from `path`."""
    found = []
    for block in _PUBLIC_BLOCK.findall(content):
        try:
            key = serialization.load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise InvalidInput(f"audit key {path}: a block that is not a public key in PEM") from exc
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidInput(f"audit key {path}: not an Ed25519 key")
        found.append(key.public_bytes_raw())
    if not found:
        raise InvalidInput(f'audit key {path}: no "BEGIN PUBLIC KEY" in it; a copy of audit.pub is expected')
    return found


def verifies(public: bytes, message: bytes, signature: str) -> bool:
    """`signature` is hex."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True
