"""A benchmark that is cut short takes its floor down: SIGTERM and SIGHUP end it as Ctrl-C does."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def end_in_order() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
