"""What a probe is told and what it answers: the instance that it looks at, and one result."""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.model.checks import PLACEHOLDERS, State

OUTPUT_BYTES_MAX = 4096
"""Of a result: enough for an operator, and little enough for hundreds of checks in memory."""
_PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")


@dataclass(frozen=True, slots=True)
class Result:
    state: State
    output: str


@dataclass(frozen=True, slots=True)
class Target:
    """One instance, as far as checks need to know it; of a service of ours or of another's."""

    service: str
    instance: str
    host: str
    address: str = "127.0.0.1"
    health_port: int = 0
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Name -> where, as the instance reports them."""
    runs: bool = True
    """Its process does; otherwise nothing is asked of it."""

    def filled(self, text: str) -> str:
        """With each `{placeholder}` replaced; once, so that no name brings in another."""
        return _PLACEHOLDER.sub(lambda found: str(getattr(self, found[1])), text)


def cut(output: bytes) -> str:
    """The beginning of what was read, as text; what is no UTF-8 is marked as such."""
    text = output[:OUTPUT_BYTES_MAX].decode("utf-8", "replace").strip()
    return f"{text} ... (cut)" if len(output) > OUTPUT_BYTES_MAX else text


def why(exc: OSError) -> str:
    """In words, without the errno that people do not know by heart."""
    if exc.errno and exc.errno in errno.errorcode and not isinstance(exc, ssl.SSLError):
        return os.strerror(exc.errno)  # asyncio's own words name the address once more
    return exc.strerror or str(exc) or type(exc).__name__
