"""The keeper's end of the line to its agent: a unix socket, one JSON object a line (protocol.py).

An agent that connects replaces the one before, which died. While none is connected the keeper goes on with
the last table. A line that does not decode is counted and answered with {"refused": why}; the table stays as
it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from agents.keeper import protocol
from agents.keeper.protocol import FromKeeper
from controlplane.errors import InUse, InvalidInput
from controlplane.host import log, run_folder, standing

BUFFER_BYTES_MAX = 1 << 20
"""An agent that does not read (stopped) loses the connection, not the keeper its memory."""

LOOK_S = 0.1
"""At its socket's path: within this a new agent finds it again, which would otherwise take the keeper for
dead (keeper_silence.py)."""


class Line:
    def __init__(self, hello: Callable[[], FromKeeper], on_table: Callable[[protocol.Table], None]) -> None:
        self.undecodable = 0
        self._hello = hello
        self._on_table = on_table
        self._troubles = standing.Troubles(lambda text: log.warning("link.not_open", reason=text))
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None

    async def keep_open(self, path: Path) -> None:
        """Until cancelled: open again where the socket is gone from its folder, or the folder with it.
        Whoever was connected stays so.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            if not path.exists():  # noqa: ASYNC240 - on tmpfs, which does not block
                old = self._server
                try:
                    run_folder.make(path.parent)
                    await self.open(path)
                except (OSError, InUse) as exc:
                    self._troubles.stands(str(path), f"gone, and cannot be made again: {exc}")
                    continue
                self._troubles.over(str(path))
                log.warning("link.reopened", path=str(path), why="its socket was removed")
                if old is not None:
                    old.close()

    async def open(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - an earlier keeper's; the lock says that none is alive
        self._server = await asyncio.start_unix_server(self._serve, path, limit=protocol.LINE_BYTES_MAX)
        os.chmod(path, 0o600)  # noqa: PTH101 - before anything else runs; tmpfs does not block

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            self._server.close()

    def send(self, message: FromKeeper) -> None:
        """To the agent, if one is connected; what nobody hears is lost (a new agent gets a whole report
        within a second).
        """
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > BUFFER_BYTES_MAX:
            log.warning("link.closed", why="the agent does not read")
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
                    self._on_table(protocol.decode_table(line))
                except InvalidInput as exc:
                    self.undecodable += 1
                    log.warning("link.refused", reason=str(exc))
                    self.send(FromKeeper(refused=str(exc)))
        except (OSError, ValueError) as exc:  # reset, or a line over the limit
            self.undecodable += isinstance(exc, ValueError)
            log.warning("link.broken", reason=str(exc))
        finally:
            if self._writer is writer:
                self._writer = None
            with contextlib.suppress(OSError):
                writer.close()
