"""What libraries say through the standard logging module (asyncio, grpc), put into our own lines.

The logger's name is the event, the message a field. Imported by log.py when a process starts its log.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping

from controlplane.host.log_line import DEBUG, ERROR, INFO, WARNING

TRACEBACK_CHARACTERS_MAX = 4000
"""Of its end, where the innermost frames are."""

Write = Callable[[int, str, Mapping[str, object]], None]


class Handler(logging.Handler):
    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """A record that cannot be formatted is said as such: a library's mistake does not end its caller."""
        try:
            fields: dict[str, object] = {"message": record.getMessage()}
        except (TypeError, ValueError) as exc:
            fields = {"message": str(record.msg), "not_formatted": str(exc)}
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = traceback_of(record.exc_info[1])
        self._write(_level(record.levelno), record.name, fields)


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
