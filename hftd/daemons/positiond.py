"""positiond: books every execution once and says what we hold and what it is worth.

Wiring only. What a position is: engine/position.py; how it survives: storage/position_log.py. omsd attaches
with its token and sends executions until they are acknowledged by ReportsSeen(up to the highest id below
which none is missing); an id that comes again is acknowledged again and not booked. Ids have gaps: that none
is missing omsd says by how many there are (ExecutionsTold), as soon as the venue's list has told it. Every
position is published at each change and all of them once a second, so that a subscriber that missed one is
right within a second.

Bad input: an execution that cannot be booked is kept, acknowledged, counted (`not_booked`) and a critical
alarm, for good; its position goes out as doubtful, and riskd takes no new risk by it. A figure over 64 bits
goes out as the nearest that fits, with an alarm while it lasts. A report without an execution id, or with one
over 64 bits, is counted (`unexpected`) and dropped.
"""

from __future__ import annotations

import contextlib

from controlplane.errors import InvalidInput
from hftd import bus, runtime
from hftd.daemons import fence_keeping
from hftd.daemons.claim_check import ClaimCheck
from hftd.engine import accounts, fixed, position, reasons
from hftd.engine.orders import answers
from hftd.settings import PositionSettings
from hftd.storage import fences, position_log
from hftd.wire import codec, control, market, orders, tops

PUBLISH_EVERY_S = 1.0
HOLE_MAX = 100_000
"""Executions kept above one that may be missing; more would be a sender that has lost its count."""
FOLD_AFTER = 10_000
"""Records in the log from which what omsd has told of gaps, which is in no record, is kept by a snapshot."""

FromOmsd = orders.Attach | orders.Report | orders.ExecutionsTold
_from_omsd: codec.Decoder[FromOmsd] = codec.Decoder(FromOmsd)


class PositionBook:
    def __init__(self, context: runtime.Context, settings: PositionSettings) -> None:
        self.context, self.settings = context, settings
        self.log = position_log.PositionLog(context.data_dir)
        self.fences = fences.Fences(context.data_dir / "fences.json", context.store_tokens.highest)
        self.claims = ClaimCheck(context)
        self.executions = bus.link.Router(context.bind("executions"))
        self.publisher = bus.publish.Publisher(context.bind("positions"))
        self.market = bus.publish.Subscriber()
        self.reader = tops.Reader(context.count)
        self._instruments: set[tuple[str, str]] = set()
        self._to_acknowledge: set[bytes] = set()
        self._told_unkept = False
        """What omsd has told of gaps since the last snapshot is in memory alone."""
        self._changed: set[tuple[str, str]] = set()
        self._published = runtime.Heads(context.instance)
        """Numbers what is published; answers to omsd are numbered by the context."""
        if self.log.torn_bytes:
            context.event("positions.torn_record", bytes=self.log.torn_bytes)
        if self.log.undecodable:
            self._record_left_out(self.log.undecodable)
        for key in self.positions.refused:
            self._not_booked(key)

    def _record_left_out(self, at: list[int]) -> None:
        text = f"executions.log: records left out that do not decode: {len(at)}, the first at byte {at[0]}"
        self.context.alarm("positions.log", "critical", f"{text}; omsd is asked for their executions again")

    def configure(self, settings: PositionSettings) -> None:
        self.settings = settings

    @property
    def positions(self) -> position.Positions:
        return self.log.positions

    # --- executions -----------------------------------------------------------------------------------------

    def on_execution(self, identity: bytes, frame: bytes) -> None:
        message = _from_omsd(frame)
        match message:
            case orders.Attach():
                self._on_attach(identity, message)
            case orders.Report():
                self._on_report(identity, message)
            case orders.ExecutionsTold():
                self._on_told(identity, message)

    def _on_attach(self, identity: bytes, attach: orders.Attach) -> None:
        ok, reason = self.claims.attach(identity, attach, self.fences)
        self.executions.send(
            identity,
            codec.encode(orders.Attached(*self.context.head(), ok, reason, self.positions.seen.up_to)),
        )

    def _refused(self, identity: bytes, message: orders.Report | orders.ExecutionsTold) -> bool:
        if not self.fences.refuses(message.token):
            return False
        stale = message.token is None or self.fences.stale(message.token)
        self.context.count("stale_token_refusals" if stale else "not_attached")
        code = reasons.STALE_TOKEN if stale else reasons.NOT_ATTACHED
        of = message if isinstance(message, orders.Report) else None
        self.executions.send(identity, codec.encode(answers.refusal(self.context.head(), of, code)))
        return True

    def _on_told(self, identity: bytes, told: orders.ExecutionsTold) -> None:
        if self._refused(identity, told):
            return
        if not 0 <= told.after < told.up_to <= accounts.INT64_MAX:
            self.context.count("unexpected")
            return
        if self.positions.seen.told(told.after, told.up_to, told.count):
            self._told_unkept = True
        self._to_acknowledge.add(identity)

    def _on_report(self, identity: bytes, report: orders.Report) -> None:
        if self._refused(identity, report):
            return
        if not 0 < report.execution_id <= accounts.INT64_MAX:
            self.context.count("unexpected")
            return
        if max(len(report.market), len(report.symbol)) > codec.NAME_MAX:
            raise InvalidInput(f"execution {report.execution_id}: a name of over {codec.NAME_MAX} characters")
        if report.execution_id in self.positions.seen:
            self.context.count("duplicates")
        elif not self._book(report):
            return
        self._to_acknowledge.add(identity)

    def _book(self, report: orders.Report) -> bool:
        """False: it is not kept, and must come again."""
        if len(self.positions.seen.above) >= HOLE_MAX:
            hole = self.positions.seen.up_to + 1
            self.context.alarm(
                "positions.hole",
                "critical",
                f"no executions are booked: from {hole} on some may be missing, {HOLE_MAX} later ones wait",
            )
            return False
        execution = position.Execution(
            id=report.execution_id,
            market=report.market,
            symbol=report.symbol,
            side=report.side,
            price=report.last_price,
            quantity=report.last_quantity,
        )
        try:
            refused = self.log.append(execution)
        except OSError as exc:
            self.context.alarm(
                "positions.disk",
                "critical",
                f"executions cannot be written ({exc.strerror or exc}); none is acknowledged, and positions "
                "stand still",
            )
            self.context.health.set_healthy(False, "executions cannot be written")
            return False
        key = (report.market, report.symbol)
        self._changed.add(key)
        if refused:
            self.context.count("not_booked")
            self._not_booked(key)
            return True
        self.context.count("fills")
        return True

    def _not_booked(self, key: tuple[str, str]) -> None:
        why = self.positions.refused[key]
        name = ":".join(key)
        self.context.alarm(
            f"positions.refused.{key[0]}.{key[1]}",
            "critical",
            f"execution {why.id} of {name} is not booked: {reasons.text(why.reason)}; the position shown is "
            "not right, and riskd refuses new orders of it until it has been reconciled by hand",
            subject=name,
        )

    def flush(self) -> None:
        """The input is empty: acknowledge what is kept, publish what has changed."""
        if self._to_acknowledge:
            try:
                if self.settings.sync:
                    self.log.sync()
            except OSError as exc:
                self.context.alarm(
                    "positions.disk",
                    "critical",
                    f"executions cannot be synced ({exc.strerror or exc}); none is acknowledged",
                )
                return
            seen = codec.encode(orders.ReportsSeen(*self.context.head(), self.positions.seen.up_to))
            for identity in self._to_acknowledge:
                self.executions.send(identity, seen)
            self._to_acknowledge.clear()
        for key in self._changed:
            self._publish(self.positions.of(*key))
        self._changed.clear()

    # --- publishing -----------------------------------------------------------------------------------------

    def _publish(self, found: position.Position) -> None:
        message = orders.Position(
            *self._published(),
            market=found.market,
            symbol=found.symbol,
            quantity=found.quantity,
            cash=found.cash,
            average_price=found.average_price,
            realised=found.realised,
            unrealised=found.unrealised,
            last_execution=found.last_execution,
            doubtful=found.doubtful,
        )
        self.publisher.send(codec.encode(message))
        self._say_saturated(found)

    def _say_saturated(self, found: position.Position) -> None:
        id, name = f"positions.saturated.{found.market}.{found.symbol}", f"{found.market}:{found.symbol}"
        if found.saturated:
            figures = ", ".join(found.saturated)
            text = f"{name}: {figures} over 64 bits; the nearest value that fits is shown"
            self.context.alarm(id, "critical", text, subject=name)
        else:
            self.context.clear(id)

    def each_second(self, _: int) -> None:
        try:
            self.log.sync()
            records_max = self.settings.log_executions_max
            if self.log.records >= (min(records_max, FOLD_AFTER) if self._told_unkept else records_max):
                self.log.fold()
                self._told_unkept = False
        except OSError as exc:
            self.context.alarm(
                "positions.disk", "critical", f"executions cannot be synced ({exc.strerror or exc})"
            )
        else:
            self.context.clear("positions.disk")
            self.context.health.set_healthy(True)
        held = {(found.market, found.symbol) for found in self.positions}
        for key in sorted(held | self._instruments | self.positions.refused.keys()):
            self._publish(self.positions.of(*key))
        self.context.gauge("last_execution", self.positions.seen.up_to)

    def on_market(self, frame: bytes) -> None:
        for instrument, message, _ in self.reader.read(frame):
            self._instruments.add((instrument.market, instrument.symbol))
            if message.kind == market.Kind.TOP and message.bids and message.asks:
                (bid, bids), (ask, asks) = message.bids[0], message.asks[0]
                if bids > 0 and asks > 0:
                    self.positions.mark(instrument.market, instrument.symbol, (bid + ask) // 2)

    def ask(self, _: dict[str, object]) -> list[dict[str, str | None]]:
        """Decimals as exact texts; the value of what is open is None while there is no price for it."""
        names = ("quantity", "cash", "average_price", "realised", "unrealised")
        return [
            {
                "market": found.market,
                "symbol": found.symbol,
                **{name: fixed.text(getattr(found, name)) for name in names},
                **({} if found.marked or not found.quantity else {"unrealised": None}),
            }
            for found in self.positions
        ]

    def stop(self) -> None:
        self.flush()
        if self.positions.refused:
            with contextlib.suppress(OSError):  # the log is good without it
                self.log.fold()  # whoever reconciles by hand finds all of it in positions.json
        self.log.close()


def build(context: runtime.Context, settings: PositionSettings) -> runtime.Loop:
    keeper = PositionBook(context, settings)
    loop = runtime.Loop(context)

    bookd = settings.tops

    def found_marks(_: list[control.Peer]) -> None:
        keeper.market.connect(context.endpoint(bookd, "marks"))

    loop.on_peers(bookd, found_marks)
    loop.on_router(keeper.executions.socket, keeper.on_execution)
    loop.on(keeper.market.socket, keeper.on_market)
    loop.before_wait(keeper.flush)
    loop.every(PUBLISH_EVERY_S, keeper.each_second)
    loop.on_ask("positions", keeper.ask)
    loop.on_settings(keeper.configure)
    fence_keeping.keep(loop, context, keeper.fences, keeper.claims)
    loop.on_stop(keeper.stop)
    context.set_ready(True)
    return loop
