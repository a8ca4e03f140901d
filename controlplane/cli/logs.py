"""`hftctl logs INSTANCE [-f] [-n]`: what an instance printed, across its restarts; the floor's own processes
too (floord, the store, agent-alpha ...).
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

from controlplane.cli import agent_client
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, SiteDirOption
from controlplane.errors import FloorUnreachable, InvalidInput
from controlplane.host.log_line import printable
from controlplane.http import unix

FOLLOW_EVERY_S = 0.25


def logs(
    instance: Annotated[str, Argument(help="Instance id, or one of the floor's own processes.")],
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> None:
    """The log of one instance."""
    floor = agent_client.Floor(site_dir, timeout)
    answer = ask(floor, instance, f"lines={lines}")
    if answer is None:
        own_file(floor, instance, lines, follow)
        return
    emit(answer.body)
    offset = answer.headers.get("x-next-offset")
    while follow and offset is not None:
        time.sleep(FOLLOW_EVERY_S)
        try:
            more = ask(floor, instance, f"offset={offset}")
        except FloorUnreachable:
            continue  # its agent restarts; the offset is still good
        if more is not None:
            emit(more.body)
            offset = more.headers.get("x-next-offset", offset)


def ask(floor: agent_client.Floor, instance: str, query: str) -> unix.Answer | None:
    """From the agent that has it; None when no agent knows it."""
    for answer in floor.answers("GET", f"/v1/instances/{quote(instance, safe='')}/log?{query}"):
        if answer.status == 200:
            return answer
    return None


def own_file(floor: agent_client.Floor, name: str, lines: int, follow: bool) -> None:
    """The floor's own processes write their logs beside those of the instances, on this machine."""
    path: Path = floor.folders.log(name)
    if "/" in name or not path.is_file():
        known = sorted(p.stem for p in floor.folders.logs.glob("*.log"))
        raise InvalidInput(f'no log of "{name}" (there are {", ".join(known) or "none"})')
    for part in parts(path, lines):
        emit(part)
        if not follow:
            return
        if not part:
            time.sleep(FOLLOW_EVERY_S)


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
