"""What the simulated venue keeps over its own death: executions, accounts, working orders, where it is in the
tape, who its gateway is.

    journal/   storage/journal.py: each Place that came to rest or traded, each execution, each end of an
               order, as the messages of wire/orders.py
    accounts   what the executions up to one sequence of that journal add up to; made at each start, so that
               old segments can go
    position   fixed size, rewritten in place after each frame of the feed
    gateway    ZeroMQ identity of the execd that had the orders last

Everything is written before it is told. A kill -9 loses nothing that was told; a power cut at most what
the journal's thread had not synced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.host.files import Durability
from hftd.engine import accounts
from hftd.storage import journal as journals
from hftd.wire import codec, orders

SEGMENTS_MAX = 4
"""64 MB: some hundred thousand executions can be asked for again; accounts go back for ever."""
EXECUTIONS_KEPT = 50_000
"""In memory, to answer an order manager that missed some."""
EPOCH = 1
"""One writer, and no elections: the journal's epoch stays as it is."""

_POSITION = struct.Struct("<8s16sQQB")
_CRC = struct.Struct("<I")
_POSITION_MAGIC = b"HFTTAPE1"

decode_record: codec.Decoder[orders.Place | orders.Report] = codec.Decoder(orders.Place | orders.Report)


class Sums(msgspec.Struct, array_like=True, frozen=True):
    """The file `accounts`."""

    up_to: int
    """Sequence of the journal that is in it."""
    last_execution: int
    accounts: list[orders.Account]


_decode_sums = msgspec.msgpack.Decoder(Sums).decode


class VenueJournal:
    """Recovered when made: `accounts`, `executions`, `last_execution` and `working` are as they were when the
    last record was written.

    Raises:
        InvalidInput: a file of it is damaged. InUse: another simd has it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._records = journals.Journal(folder / "journal")
        self.accounts = accounts.Accounts()
        self.last_execution = 0
        self.executions: deque[orders.Report] = deque(maxlen=EXECUTIONS_KEPT)
        self.working: dict[str, tuple[orders.Place, int]] = {}
        """Orders without an end, oldest first: the order and how much of it is filled."""
        self._recover()

    @property
    def lost(self) -> str:
        """What was put aside when the journal was opened, because a power cut took what was before it; "" for
        nothing.
        """
        return str(self._records.lost or "")

    def append(self, record: orders.Place | orders.Report) -> None:
        """Raises JournalFull: nothing was written."""
        self._records.append(EPOCH, codec.encode(record))
        if isinstance(record, orders.Report) and record.execution_id:
            self.executions.append(record)

    def sync_soon(self) -> None:
        self._records.sync_soon()

    def has_room(self) -> bool:
        """After JournalFull, about once a second: can it go on?"""
        return self._records.recovered()

    def executions_after(self, execution_id: int, limit: int) -> list[orders.Report]:
        """The oldest of them first. Most who ask lack only the newest, so it is looked for from the end."""
        found: list[orders.Report] = []
        for report in reversed(self.executions):
            if report.execution_id <= execution_id:
                break
            found.append(report)
        found.reverse()
        return found[:limit]

    def close(self) -> None:
        self._records.close()

    # --- recovery -------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        sums = self._read_sums()
        for account in sums.accounts:
            self.accounts.restore(account.market, account.symbol, account.quantity, account.cash)
        self.last_execution = sums.last_execution
        for record in self._records.read():
            self._again(decode_record(record.payload), new=record.sequence > sums.up_to)
        self._write_sums()

    def _again(self, record: orders.Place | orders.Report, *, new: bool) -> None:
        if isinstance(record, orders.Place):
            self.working[record.order_id] = (record, 0)
            return
        if record.execution_id:
            self.executions.append(record)
            if new:
                refused = self.accounts.book(
                    record.market, record.symbol, record.side, record.last_price, record.last_quantity
                )
                if refused:
                    raise InvalidInput(
                        f"{self._folder}: execution {record.execution_id} does not fit its account "
                        f"({refused})"
                    )
                self.last_execution = record.execution_id
        if record.state in (orders.OrderState.FILLED, orders.OrderState.CANCELLED):
            self.working.pop(record.order_id, None)
        elif record.order_id in self.working:
            self.working[record.order_id] = (self.working[record.order_id][0], record.filled)

    def _read_sums(self) -> Sums:
        path = self._folder / "accounts"
        try:
            return _decode_sums(path.read_bytes())
        except FileNotFoundError:
            return Sums(0, 0, [])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"{path}: the accounts of the simulated venue do not decode: {exc}") from exc

    def _write_sums(self) -> None:
        """Bring `accounts` up to date and drop old segments. Skipped on a full disk: the next start reads
        more, nothing is lost.
        """
        kept = [
            orders.Account(market, symbol, account.quantity, account.cash)
            for market, symbol, account in self.accounts
        ]
        sums = Sums(self._records.last_seq, self.last_execution, kept)
        with contextlib.suppress(OSError):
            files.replace(self._folder / "accounts", codec.encode(sums), Durability.POWER)
            if not self.working:  # an order without an end may stand in any segment
                self._records.prune(SEGMENTS_MAX, needed_after=sums.up_to)


class Position:
    """How many lines of which tape have been sent. 45 bytes, rewritten in place: a process that is killed
    leaves the old or the new one.
    """

    def __init__(self, folder: Path, tape: bytes) -> None:
        """`tape` names the tape (`identity`): the position in another one says nothing here, and lines are 0
        then.
        """
        self._tape = tape
        self._fd = os.open(folder / "position", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.lines, self.session, self.ended_well = self._read()

    def _read(self) -> tuple[int, int, bool]:
        content = os.pread(self._fd, _POSITION.size + _CRC.size, 0)
        if len(content) < _POSITION.size + _CRC.size or _CRC.unpack(content[_POSITION.size :])[
            0
        ] != zlib.crc32(content[: _POSITION.size]):
            return (
                0,
                0,
                True,
            )  # begun and never written, or torn by a power cut: the tape's beginning is a right place too
        magic, tape, lines, session, ended_well = _POSITION.unpack(content[: _POSITION.size])
        if magic != _POSITION_MAGIC:
            return 0, 0, True
        return (lines if tape == self._tape else 0), session, bool(ended_well)

    def write(self, lines: int, session: int, *, ended_well: bool = False) -> None:
        body = _POSITION.pack(_POSITION_MAGIC, self._tape, lines, session, ended_well)
        with contextlib.suppress(OSError):  # in place: a full disk does not hinder it once it has its block
            os.pwrite(self._fd, body + _CRC.pack(zlib.crc32(body)), 0)
        self.lines, self.session, self.ended_well = lines, session, ended_well

    def close(self) -> None:
        os.close(self._fd)


def identity(parts: Iterable[str]) -> bytes:
    """Names a tape by what it is made of: files and their sizes, or the seed of a synthetic market."""
    return hashlib.sha256("\0".join(parts).encode()).digest()[:16]
