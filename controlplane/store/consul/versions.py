"""Which versions of Consul are fit. Pure: what one says of its version in, a judgement out."""

from __future__ import annotations

import re

LEAST = (1, 14)
"""Transactions of 128 operations, which the port's 64 may become; an older one takes 64."""
NEEDED = f"{'.'.join(map(str, LEAST))} or newer"
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def parse(text: str) -> str | None:
    """The version in "1.19.2", "1.19.2+ent" or in what `consul version` prints; None when there is none."""
    found = _NUMBERS.search(text)
    return found[0] if found else None


def fault(version: str) -> str:
    """Why a Consul of this version is none for us; empty: it is one, or does not say (its token may not see
    it).
    """
    found = _NUMBERS.search(version)
    if found is None or (int(found[1]), int(found[2])) >= LEAST:
        return ""
    return f"Consul {version} is too old, need {NEEDED}: the transactions of older ones are too small"
