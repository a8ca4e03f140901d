"""What libraries say through the standard logging module (asyncio, grpc), put into our own lines.

The logger's name is the event, the message a field. Imported by log.py when a process starts its log.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping

from controlplane.host.log_line import DEBUG, ERROR, INFO, WARNING

TRACEBACK_CHARACTERS_MAX = 4000
"""Of its end, where the innermost frames are."""

SAY_AGAIN_S = 60.0
MESSAGES_MAX = 64
"""Different ones that are remembered; the one that came longest ago is forgotten."""

Write = Callable[[int, str, Mapping[str, object]], None]


class Handler(logging.Handler):
    """What a library says again and again is said once, and each SAY_AGAIN_S how often it was: one that is
    out of descriptors would say so each second, with a traceback.
    """

    def __init__(self, write: Write, mono_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._write, self._mono_s = write, mono_s
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        """Logger and message -> when it was said last, and how often it came since."""

    def emit(self, record: logging.LogRecord) -> None:
        """A record that cannot be formatted is said as such: a library's mistake does not end its caller."""
        try:
            fields: dict[str, object] = {"message": record.getMessage()}
        except (TypeError, ValueError) as exc:
            fields = {"message": str(record.msg), "not_formatted": str(exc)}
        repeated = self._repeated(record.name, str(fields["message"]))
        if repeated is None:
            return
        if repeated:
            fields["repeated"] = repeated
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = traceback_of(record.exc_info[1])
        self._write(_level(record.levelno), record.name, fields)

    def _repeated(self, name: str, message: str) -> int | None:
        """How often it came since it was said last; None: too soon to be said again."""
        now_mono_s, key = self._mono_s(), (name, message)
        said_mono_s, came = self._said.pop(key, (-math.inf, 0))
        again = now_mono_s - said_mono_s < SAY_AGAIN_S
        self._said[key] = (said_mono_s, came + 1) if again else (now_mono_s, 0)
        while len(self._said) > MESSAGES_MAX:
            del self._said[next(iter(self._said))]
        return None if again else came


def _level(number: int) -> int:
    return next((level for level in (ERROR, WARNING, INFO) if number >= level), DEBUG)


def traceback_of(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))[-TRACEBACK_CHARACTERS_MAX:]


def take(level: int, write: Write) -> tuple[logging.Handler, int]:
    """From now on records go to `write`. Returns what `give_back` needs."""
    root, handler = logging.getLogger(), Handler(write)
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    return handler, before


def give_back(taken: tuple[logging.Handler, int]) -> None:
    handler, level = taken
    root = logging.getLogger()
    root.removeHandler(handler)
    root.setLevel(level)
