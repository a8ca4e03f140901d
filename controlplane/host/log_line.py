"""The one line format of every process: UTC time with ms, level, who (instance or process), event, fields.

    2026-01-01T00:00:00.000Z INFO keeper-alpha lease.renewed service='strategy-mm' ttl_s=5

Texts are quoted, as Python writes them; a line never holds a newline or another control character, whatever
the values hold. Used by log.py and, without its thread, by the daemons (hftd/runtime/log.py); the shim writes
the same by hand, because it imports nothing of ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from controlplane.errors import InvalidSettings

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
DEBUG, INFO, WARNING, ERROR = LEVELS.values()
LEVEL_VARIABLE = "HFT_LOG_LEVEL"
NOBODY = "-"
"""In the place of the name, while the process has none."""
NUMBERS = frozenset({int, float, bool, type(None)})
"""Nothing in their texts, nor in that of a quoted string, moves a cursor; of other values one cannot know."""


class Lines:
    """Makes the lines of one process."""

    __slots__ = ("_heads", "_stamp")

    def __init__(self, who: str = "") -> None:
        self._heads = {level: f"Z {name.upper()} {who or NOBODY} " for name, level in LEVELS.items()}
        self._stamp = (-1, "")
        """A second and its text, in one: threads may write lines too."""

    def make(self, level: int, event: str, fields: Mapping[str, object]) -> str:
        """One line, without its newline. `level` is one of LEVELS."""
        second, ns = divmod(time.time_ns(), 1_000_000_000)
        stamp = self._stamp
        if stamp[0] != second:
            stamp = self._stamp = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        text = f"{stamp[1]}.{ns // 1_000_000:03d}{self._heads[level]}{event}"
        for key, value in fields.items():
            if isinstance(value, str):
                text += f" {key}={value!r}"
            elif type(value) in NUMBERS:
                text += f" {key}={value}"
            else:
                text += f" {key}={printable(str(value))}"
        return text


def printable(text: str) -> str:
    """Newlines become spaces; other control characters, which a terminal would obey, and marks that are not
    seen (zero-width, bidirectional), become their escapes.
    """
    if text.isprintable():
        return text
    text = " ".join(text.splitlines())
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def level_from_environment(environment: Mapping[str, str] = os.environ) -> int:
    """HFT_LOG_LEVEL, `info` without it.

    Raises:
        InvalidSettings: it is not a level.
    """
    found = environment.get(LEVEL_VARIABLE) or "info"
    if found not in LEVELS:
        raise InvalidSettings(f'{LEVEL_VARIABLE} "{found}": not a level ({", ".join(LEVELS)})')
    return LEVELS[found]
