"""Every live setting of every daemon: changed while it runs, the new value is what its code uses."""

from __future__ import annotations

import gc
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from controlplane.errors import InvalidSettings
from controlplane.host import log_line
from hftd import catalogue
from hftd.engine import fixed
from hftd.runtime import in_force
from hftd.wire import requests
from tests.support.built import built

ONE, S = fixed.UNIT, 1_000_000_000

Used = Callable[[Any], Any]
"""Of the daemon behind the loop: what its code goes by."""


def limits(name: str) -> Used:
    return lambda riskd: getattr(riskd.risk.limits, name)


def parameter(name: str) -> Used:
    return lambda strategyd: getattr(strategyd.strategy.parameters, name)


def bucket(name: str) -> Used:
    """Of a strategy that was known before."""
    return lambda riskd: getattr(riskd.risk._buckets["mm"], name)


def trades(strategyd: Any) -> list[str]:
    known = (("spot", "spot"), ("usdm", "linear"))
    instruments = [requests.Instrument(1, market, "BTCUSDT", -8, -8, contract) for market, contract in known]
    return [each.market for each in instruments if strategyd._trades(each)]


def syncs(keeper: Any) -> bool:
    """Does an acknowledgement wait for the disk?"""
    synced: list[bool] = []
    keeper.log.sync = lambda: synced.append(True)
    waiting = keeper._to_acknowledge
    waiting.add(b"link") if isinstance(waiting, set) else waiting.update({b"link": 1})
    keeper.flush()
    del keeper.log.sync
    return bool(synced)


def signs_every_ns(auditd: Any) -> int:
    seen: list[int] = []
    auditd.signer.due = lambda head, now_ns, every_ns: seen.append(every_ns)
    auditd.each_turn(0)
    del auditd.signer.due
    return seen[0]


def folds_at(positiond: Any) -> int:
    """Of ten records in the log, up to which bound are they folded?"""
    folded: list[int] = []
    records, positiond.log.records = positiond.log.records, 10
    positiond.log.fold = lambda: folded.append(positiond.settings.log_executions_max)
    positiond.each_second(0)
    positiond.log.records = records
    del positiond.log.fold
    return folded[0] if folded else 0


def silent_after_ns(omsd: Any) -> int:
    """Since when must nothing have been heard of execd, that it is fenced anew?"""
    said: list[str] = []
    again, state = omsd.lead.again_if_active, omsd.lead.state
    omsd.lead.again_if_active = said.append
    phase, state.phase = state.phase, omsd.lead.state.phase.ACTIVE
    for after_ns in (S, 3 * S):
        omsd._keep_alive_ns = 0
        omsd.execution.heard_ns = 0
        omsd.tick(after_ns)
        if said:
            break
    omsd.lead.again_if_active, state.phase = again, phase
    return after_ns


def breaker_of(awaited: Used, **fields: object) -> dict[str, tuple[object, Used, object]]:
    """The five settings of a breaker."""

    def failures(daemon: Any) -> tuple[int, int]:
        breaker = awaited(daemon).breaker
        return breaker.settings.window.failures, breaker.window._failures_max

    return {
        "breaker.answer_s": (0.7, lambda daemon: awaited(daemon)._answer_ns, int(0.7 * S)),
        "breaker.failures": (9, failures, (9, 9)),
        "breaker.successes": (
            3,
            lambda daemon: (
                awaited(daemon).breaker.settings.success_threshold,
                awaited(daemon).breaker.settings.half_open_permits,
            ),
            (3, 3),
        ),
        "breaker.open_s": (2.5, lambda daemon: awaited(daemon).breaker.settings.open.first_s, 2.5),
        "breaker.open_max_s": (50.0, lambda daemon: awaited(daemon).breaker.settings.open.max_s, 50.0),
    }


LOG_LEVEL = {"log_level": ("warning", lambda daemon: _context(daemon).lines.level, log_line.WARNING)}


def _context(daemon: Any) -> Any:
    return getattr(daemon, "context", None) or daemon._context


CHANGES: dict[str, dict[str, tuple[object, Used, object]]] = {
    "strategyd": {
        "markets": (["spot"], trades, ["spot"]),
        "order_notional": ("50", parameter("order_notional"), 50 * ONE),
        "quantity_step": ("0.01", parameter("quantity_step"), ONE // 100),
        "max_position": ("7", parameter("position_max"), 7 * ONE),
        "inventory_orders_max": (3, parameter("inventory_orders_max"), 3),
        "skew_ppm": (17, parameter("skew_ppm"), 17),
        "requote_interval_s": (0.25, parameter("requote_interval_ns"), S // 4),
        "acknowledge_timeout_s": (1.5, parameter("acknowledge_timeout_ns"), 3 * S // 2),
        "quote_age_max_s": (9.0, parameter("quote_age_max_ns"), 9 * S),
        "top_age_max_s": (4.0, parameter("top_age_max_ns"), 4 * S),
        "rehearsal_interval_s": (0.5, lambda strategyd: strategyd.rehearsals.every_ns, S // 2),
        **breaker_of(lambda strategyd: strategyd.awaited),
    },
    "riskd": {
        "max_position": ("7", limits("position_max"), 7 * ONE),
        "max_order_size": ("3", limits("order_size_max"), 3 * ONE),
        "price_collar_ppm": (1_000, limits("price_collar_ppm"), 1_000),
        "price_age_max_s": (2.0, limits("price_age_max_ns"), 2 * S),
        "messages_per_s": (20, bucket("_per_s"), 20),
        "message_burst": (40, bucket("_full"), 40 * S),
        "open_orders_max": (5, limits("open_orders_max"), 5),
        "strategy_silent_s": (2.0, lambda riskd: riskd.strategies.clients.silent_ns, 2 * S),
    },
    "positiond": {
        "sync": (True, syncs, True),
        "log_executions_max": (10, folds_at, 10),
    },
    "auditd": {
        "sync": (True, syncs, True),
        "head_every_s": (0.5, lambda auditd: auditd.turns.every_ns, S // 4),
        "file_bytes_max": (8192, lambda auditd: auditd.log.file_bytes_max, 8192),
        "sign_every_s": (3.0, signs_every_ns, 3 * S),
    },
    "simd": {"speed": ("10", lambda simd: (simd.feeder._pace._speed, simd.tape({})["speed"]), (10, "10"))},
    "marketd": {
        "clock_offset_max_ms": (7.0, lambda marketd: marketd._settings.clock_offset_max_ms, 7.0),
        "reader_silence_s": (5.0, lambda marketd: marketd._credits.silence_ns, 5 * S),
    },
    "bookd": {
        "credit_window": (256, lambda bookd: bookd._settings.credit_window, 256),
        "bar_s": (2.0, lambda bookd: bookd._books.bars.length_ns, 2 * S),
        "snapshot_retry_s": (0.25, lambda bookd: bookd._retries.every_ns, S // 4),
    },
    "omsd": {
        "fence_retry_s": (0.1, lambda omsd: omsd.lead.state.fence_retry_ns, S // 10),
        "reconcile_timeout_s": (0.75, lambda omsd: omsd.lead.state.reconcile_timeout_ns, 3 * S // 4),
        "keep_alive_s": (0.125, lambda omsd: omsd.settings.keep_alive_s, 0.125),
        "execution_silence_s": (0.9, silent_after_ns, S),
        "resend_s": (2.0, lambda omsd: (omsd.receivers.resend_ns, omsd.tail.resend_ns), (2 * S, 2 * S)),
        "open_orders_max": (7, lambda omsd: omsd.ledger.oms.bounds.open_orders_max, 7),
        "client_order_ids_max": (2_000, lambda omsd: omsd.ledger.oms.bounds.client_order_ids_max, 2_000),
        "closed_orders_max": (300, lambda omsd: omsd.ledger.oms.bounds.closed_orders_max, 300),
        "executions_max": (1_500, lambda omsd: omsd.ledger.oms.bounds.executions_max, 1_500),
        "unsynced_max": (500, lambda omsd: omsd.ledger.journal.unsynced_max, 500),
        "segment_bytes": (65_536, lambda omsd: omsd.ledger.journal.segment_bytes, 65_536),
        "segments_max": (4, lambda omsd: omsd.ledger._settings.segments_max, 4),
        **breaker_of(lambda omsd: omsd.execution.awaited),
    },
    "execd": {
        "orphan_s": (4.0, lambda execd: execd.orphans.after_ns, 4 * S),
        "fence_retry_s": (0.1, lambda execd: execd.settings.fence_retry_s, 0.1),
        "venue_keep_alive_s": (0.25, lambda execd: execd.venue._settings.venue_keep_alive_s, 0.25),
        "reports_max": (2_000, lambda execd: execd.reports.kept_max, 2_000),
        **breaker_of(lambda execd: execd.venue.awaited),
    },
}
"""Daemon -> live setting -> its new value, what the code uses, and what that is then."""


ANOTHER: dict[str, object] = {
    "seed": 7,
    "tape": ["/nowhere"],
    "files": ["/nowhere"],
    "exchange_info": ["/nowhere"],
    "instruments": [
        {"market": "spot", "symbol": "BTCUSDT", "contract": "spot", "tick": "0.01", "lot": "0.00001"}
    ],
}
"""Of the fields that need a restart and name no service."""


def live_paths(settings: Any, prefix: str = "") -> Iterator[str]:
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name in in_force.restarts(settings):
            continue
        if is_dataclass(value):
            yield from live_paths(value, f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}"


LIVE = [(name, path) for name in sorted(CHANGES) for path in live_paths(catalogue.kind_of(name).settings())]


@pytest.mark.parametrize(("name", "path"), LIVE)
def test_a_live_setting_that_is_changed_is_what_the_code_uses(name: str, path: str) -> None:
    value, used, expected = (CHANGES[name] | LOG_LEVEL)[path]
    with built(name) as one:
        if name == "riskd":
            one.daemon.risk.on_cancel("mm", 0)
        assert used(one.daemon) != expected, "the new value has to be another one"
        settings = one.settings
        *above, last = path.split(".")
        inner = settings
        for each in above:
            inner = inner[each]
        inner[last] = value
        one.reload(2, settings)
        assert one.context.in_force.refused == ""
        assert used(one.daemon) == expected
        assert one.context.in_force.revision == 2 and one.context.changed, "acknowledged at once"

        one.reload(3, {})
        assert used(one.daemon) != expected, "and back to the defaults"


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_nothing_in_a_running_daemon_keeps_the_settings_of_before(name: str) -> None:
    """What would go by them has not been told."""
    with built(name) as one:
        one.reload(2, one.settings | {"log_level": "warning"})
        old = one.context.in_force.settings
        one.reload(3, one.settings | {"log_level": "error"})
        assert one.context.in_force.revision == 3
        gc.collect()
        holders = [each for each in gc.get_referrers(old) if not isinstance(each, types.FrameType)]
        assert not holders, holders


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_bad_value_or_a_field_that_needs_a_restart_leaves_what_runs(name: str) -> None:
    with built(name) as one:
        before = one.context.in_force.settings
        one.reload(2, one.settings | {"log_level": "loud"})
        assert one.context.in_force.settings is before
        assert "revision 2: wanted: settings of" in one.context.in_force.refused
        assert "log_level" in one.context.in_force.refused
        for field in sorted(in_force.restarts(before) - {"strategy"}):  # of that one there is no other yet
            one.reload(3, one.settings | {field: ANOTHER.get(field, "another")})
            assert one.context.in_force.settings is before
            assert f"{field}: changes only with a restart" in one.context.in_force.refused
        one.reload(1, one.settings)
        assert one.context.in_force.refused == ""


def test_quotes_in_a_market_that_is_traded_no_more_are_taken_out_at_once() -> None:
    with built("strategyd") as one:
        hands, pulled = one.daemon, []
        hands.reader.instruments |= {
            1: requests.Instrument(1, "spot", "BTCUSDT", -8, -8, "spot"),
            2: requests.Instrument(2, "usdm", "BTCUSDT", -8, -8, "linear"),
        }
        hands.strategy.on_book = lambda instrument, in_step, now_ns: (
            pulled.append((str(instrument), in_step)) or []
        )
        one.reload(2, {"markets": ["spot"]})
        assert pulled == [("usdm:BTCUSDT", False)]
        one.reload(3, {"markets": ["spot", "usdm"]})
        assert len(pulled) == 1


def test_a_strategy_that_refuses_parameters_keeps_everything_as_it_was() -> None:
    with built("strategyd") as one:
        before, parameters = one.context.in_force.settings, one.daemon.strategy.parameters
        configure = one.daemon.strategy.configure

        def refuses(given: dict[str, Any]) -> None:
            if given["skew_ppm"] == 7:
                raise InvalidSettings("market_making: skew_ppm 7 is not for us")
            configure(given)

        one.daemon.strategy.configure = refuses
        one.reload(2, {"skew_ppm": 7, "requote_interval_s": 9.0, "log_level": "error"})
        assert "skew_ppm 7 is not for us" in one.context.in_force.refused
        assert one.context.in_force.settings is before is one.daemon.settings
        assert one.daemon.strategy.parameters == parameters
        assert one.context.lines.level == log_line.INFO, "the log level is taken back too"
