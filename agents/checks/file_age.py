"""How long ago a file was written. The look is on a thread: a file system that is away holds up its check."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from agents.checks.blocking import Calls
from agents.checks.target import Result, Target, why
from controlplane.model.checks import FileAgeCheck

FUTURE_S = 60.0
"""A file may be so much newer than now: another machine's clock wrote it, or ours was set."""


async def probe(
    check: FileAgeCheck, target: Target, key: str, calls: Calls, now_s: Callable[[], float] = time.time
) -> Result:
    path = target.filled(check.path)
    try:
        written_s = await calls.run(key, lambda: os.stat(path).st_mtime)  # noqa: PTH116  Path.stat is slower
    except OSError as exc:
        return Result("critical", f"{path}: {why(exc)}")
    return judge(check, path, now_s() - written_s)


def judge(check: FileAgeCheck, path: str, age_s: float) -> Result:
    """What an age means. Pure."""
    if age_s < -FUTURE_S:
        return Result("critical", f"{path} was written {-age_s:.0f} s from now: a clock is wrong")
    said = f"{path} was written {max(0.0, age_s):.0f} s ago"
    if age_s > check.critical_s:
        return Result("critical", f"{said}, wanted within {check.critical_s:g} s")
    if check.warning_s and age_s > check.warning_s:
        return Result("warning", f"{said}, wanted within {check.warning_s:g} s")
    return Result("passing", said)
