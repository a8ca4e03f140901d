"""`hftctl logs INSTANCE [-f] [-n]`: what an instance printed, across its restarts; the floor's own processes
too (floord, the store, agent-alpha ...). Of a floor that is down, from its site folder.
"""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated
from urllib.parse import quote

from controlplane.cli import agent_client, source, stderr
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, SiteDirOption
from controlplane.errors import FloorUnreachable, InvalidInput
from controlplane.floor import folders
from controlplane.host.log_line import printable
from controlplane.http import unix

FOLLOW_EVERY_S = 0.25


def logs(
    instance: Annotated[str, Argument(help="Instance id, or one of the floor's own processes.")],
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """The log of one instance."""
    try:
        floor = agent_client.Floor(site_dir, timeout)
        answer = ask(floor, instance, f"lines={lines}")
    except FloorUnreachable as exc:
        from controlplane.cli import kept

        path = kept.log(folders.Folders(site_dir or folders.default_site_dir()), instance)
        if path is None:
            raise source.elsewhere(exc) from exc
        emit(next(parts(path, lines)))
        stderr.say(f"{exc}; these lines are from its files")
        return 0
    if answer is None:
        return own_file(floor, instance, lines, follow)
    emit(answer.body)
    offset = answer.headers.get("x-next-offset")
    return following(floor, instance, offset) if follow and offset is not None else 0


def following(floor: agent_client.Floor, instance: str, offset: str) -> int:
    """Until the floor has ended; returns the exit code for how it did."""
    while True:
        time.sleep(FOLLOW_EVERY_S)
        try:
            more = ask(floor, instance, f"offset={offset}")
        except FloorUnreachable:
            from controlplane.cli import kept

            if end := kept.ended(floor):  # else its agent restarts; the offset is still good
                emit(kept.log_after(floor.folders, instance, offset))
                stderr.say(end[0])
                return end[1]
            continue
        if more is not None:
            emit(more.body)
            offset = more.headers.get("x-next-offset", offset)


def ask(floor: agent_client.Floor, instance: str, query: str) -> unix.Answer | None:
    """From the agent that has it; None when no agent knows it. Raises FloorUnreachable."""
    answer = floor.first(f"/v1/instances/{quote(instance, safe='')}/log?{query}")
    return answer if answer.status == 200 else None


def own_file(floor: agent_client.Floor, name: str, lines: int, follow: bool) -> int:
    """The floor's own processes write their logs beside those of the instances, on this machine."""
    from controlplane.cli import kept

    path = kept.log(floor.folders, name)
    if path is None:
        known = ", ".join(kept.log_names(floor.folders)) or "none"
        raise InvalidInput(f'no log of "{name}" (there are {known})')
    end: tuple[str, int] | None = None
    for part in parts(path, lines):
        emit(part)
        if not follow:
            return 0
        if not part:
            if end:
                break
            end = kept.ended(floor)  # then once more, for what was written last
            time.sleep(FOLLOW_EVERY_S)
    assert end is not None, "parts go on for ever"
    stderr.say(end[0])
    return end[1]


def parts(path: Path, lines: int) -> Iterator[bytes]:
    """The last lines, then without end what came since, empty when nothing did. When the log is rotated: the
    rest of the old file, then the new one from its beginning.
    """
    file = path.open("rb")
    try:
        found = file.readlines()
        yield b"".join(found[-lines:] if lines else [])
        while True:
            rotated = _rotated(path, file)  # before the read: what was written until then is in it
            yield file.read()
            if rotated:
                file.close()
                file = path.open("rb")
    finally:
        file.close()


def _rotated(path: Path, file: IO[bytes]) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False  # between two names, or removed: the open one is all there is


_decoder = codecs.getincrementaldecoder("utf-8")("replace")
"""A character may be cut by the end of a part."""


def emit(part: bytes) -> None:
    """A daemon may have printed anything: lines and tabs stay, what else moves a cursor is escaped."""
    lines = _decoder.decode(part).split("\n")
    sys.stdout.write("\n".join("\t".join(map(printable, line.split("\t"))) for line in lines))
    sys.stdout.flush()
