"""JSON of which there is one form, so that it can be hashed and signed: no spaces, ASCII, no NaN, fields in
their order. For audit_chain.py and audit_statement.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def encode(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def line(fields: Mapping[str, object]) -> bytes:
    """Newline included."""
    return encode(fields) + b"\n"


def decode(text: bytes, bytes_max: int) -> dict[str, Any] | None:
    """The object of one line, with or without its newline; None when it is none, or a longer one. Whether it
    is canonical its reader judges, by encoding what it has made of it.
    """
    body = text.removesuffix(b"\n")
    if len(body) > bytes_max:
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
