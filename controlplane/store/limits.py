"""What every back end refuses before it sends anything, so that a program that runs on one store runs on the
others.
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.errors import InvalidInput, TooLarge
from controlplane.store.base import Compare, Delete, Put

OPERATIONS_MAX = 64
"""In one transaction, compares and writes counted together: Consul before 1.14 takes no more."""

VALUES_BYTES_MAX = 512 * 1024
"""All values of one write together: Consul's limit for a value and for a transaction (etcd takes 1.5 MiB a
request)."""

KEY_BYTES_MAX = 512
"""Ours are below 100; a key is not a place for data."""


def check_key(key: str) -> None:
    if not key or key.startswith("/"):
        raise InvalidInput(
            f'store key "{key}": wanted a name that is not empty and has no leading slash (Consul refuses it)'
        )
    if len(key.encode()) > KEY_BYTES_MAX:
        raise TooLarge(
            f'store key "{key[:40]}...": {len(key.encode())} bytes, wanted at most {KEY_BYTES_MAX}'
        )


def check(compares: Sequence[Compare], then: Sequence[Put | Delete]) -> None:
    """Raise TooLarge or InvalidInput when some back end could not do this as one transaction."""
    if (count := len(compares) + len(then)) > OPERATIONS_MAX:
        raise TooLarge(f"store transaction: {count} operations, wanted at most {OPERATIONS_MAX}")
    written: set[str] = set()
    for operation in then:
        check_key(operation.key)
        if operation.key in written:
            raise InvalidInput(f'store transaction: key "{operation.key}" is written twice')
        written.add(operation.key)
    for compare in compares:
        check_key(compare.key)
    if (
        size := sum(len(operation.value) for operation in then if isinstance(operation, Put))
    ) > VALUES_BYTES_MAX:
        raise TooLarge(
            f'store write of "{then[0].key}": values of {size} bytes, wanted at most {VALUES_BYTES_MAX}'
        )
