"""Which machines the shared pages can be trusted on."""

from __future__ import annotations

import os

from controlplane.errors import InvalidSettings

ORDERED = frozenset({"x86_64", "amd64", "i686", "i386"})
"""Their stores reach other cores in the order in which they were made."""


def require_ordered_stores(machine: str | None = None) -> None:
    """Raises InvalidSettings on a CPU where the seqlock of the lease and heartbeat pages would need barriers,
    which pure Python has not (ADR 0005): a daemon there could read a lease that nobody wrote.

    `machine` as uname says it; None: this one.
    """
    found = os.uname().machine if machine is None else machine
    if found.lower() not in ORDERED:
        raise InvalidSettings(
            f"this machine is {found}; wanted x86-64: on others the lease pages in shared memory would need "
            "memory barriers, which they do not have yet (docs/adr/0005-words-in-pure-python.md)"
        )
