"""The line to the agent: a unix socket, one JSON object a line. In: the whole desired table. Out: hello,
deaths, what is led here, sentences.

    agent -> keeper   {"instances": [{"process", "service", "mode", "lease", "alive", "registration",
    "fences", "home_ok", "ending"}],
                       "profile": "default", "leaving": false}
    keeper -> agent   {"hello": {"udp": "host:port"}}, once a connection
                      {"died": {"process": {...}}} {"event": {"kind": "group.decision", "service", "instance",
                      "text"}} {"groups": {service: {"epoch", "leader", "lease_remaining_ms"}}, "registered":
                      [instance ids], "undecodable": n}, once a second

An agent that connects replaces the one before (which died); while none is connected, the keeper goes on with
the last table. A line that does not decode is counted and answered with {"refused": why}; the table stays as
it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from controlplane.errors import InvalidInput
from controlplane.model import Mode, Process, Registration

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 1 << 20
"""A table of some thousand instances."""

BUFFER_BYTES_MAX = 1 << 20
"""An agent that does not read (stopped) loses the connection, not the keeper its memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One running process that the agent wants kept."""

    process: Process
    service: str
    mode: Mode
    alive: str
    lease: str | None = None
    registration: Registration | None = None
    fences: tuple[str, ...] = ()
    home_ok: bool = True
    ending: bool = False
    """The agent stops it, to start it anew or because it is wanted no more: its death is no loss of a
    process."""


@dataclass(frozen=True, slots=True)
class Table:
    instances: tuple[Entry, ...]
    profile: str = "default"
    leaving: bool = False
    """The host goes down: its daemons are being stopped, what they led is given back, and nothing is taken
    any more."""


_decoder = msgspec.json.Decoder(Table)


def decode(line: bytes) -> Table:
    """Raises InvalidInput."""
    try:
        table = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"table: {exc}") from exc
    for entry in table.instances:
        if entry.mode is Mode.ACTIVE_STANDBY and not entry.lease:
            raise InvalidInput(f"table: {entry.process.instance} is {entry.mode} and has no lease word")
    return table


class Link:
    def __init__(self, hello: Callable[[], object], on_table: Callable[[Table], None]) -> None:
        self.undecodable = 0
        self._hello = hello
        self._on_table = on_table
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    async def open(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - an earlier keeper's; the lock says that none is alive
        self._server = await asyncio.start_unix_server(self._serve, path, limit=LINE_BYTES_MAX)
        os.chmod(path, 0o600)  # noqa: PTH101 - before anything else runs; tmpfs does not block

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            self._server.close()

    def send(self, message: object) -> None:
        """To the agent, if one is connected; what nobody hears is lost (a new agent gets a whole report
        within a second).
        """
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > BUFFER_BYTES_MAX:
            log.warning("link: the agent does not read; closing its connection")
            writer.transport.abort()
            return
        writer.write(msgspec.json.encode(message) + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        old, self._writer = self._writer, writer
        if old is not None:
            old.close()
        self.send(self._hello())
        try:
            while line := await reader.readline():
                try:
                    self._on_table(decode(line))
                except InvalidInput as exc:
                    self.undecodable += 1
                    log.warning("link: %s", exc)
                    self.send({"refused": str(exc)})
        except (OSError, ValueError) as exc:  # reset, or a line over the limit
            self.undecodable += isinstance(exc, ValueError)
            log.warning("link: %s", exc)
        finally:
            if self._writer is writer:
                self._writer = None
            with contextlib.suppress(OSError):
                writer.close()
