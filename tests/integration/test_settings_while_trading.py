"""Settings and the kill switch change in running daemons while orders flow: strategyd, riskd, omsd and execd
as processes, the test as their agent and as everybody else.
"""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.host import secret
from hftd import bus
from hftd.engine import reasons
from hftd.engine.orders import approvals
from hftd.storage.fences import Fences
from hftd.wire import codec, control, orders
from hftd.wire.orders import OrderState
from tests.integration import test_strategy_to_risk as strategy_to_risk
from tests.integration.test_strategy_to_risk import BID, ONE, Omsd, Stage
from tests.support import claims, daemons, order_path, store_tokens

STRATEGY = {"requote_interval_s": 0.02, "acknowledge_timeout_s": 5.0, "skew_ppm": 0}
AGENT = (codec.VERSION, 1, 0, "agent", None)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with (
        daemons.daemon(tmp_path, "riskd", leads=True) as riskd,
        daemons.daemon(tmp_path, "strategyd", STRATEGY, service="strategy-mm") as strategyd,
        contextlib.closing(Stage(tmp_path, riskd, strategyd)) as one,
    ):
        strategy_to_risk.start(one)
        yield one


def reload(daemon: daemons.Daemon, revision: int, settings: dict[str, Any]) -> None:
    daemon.say(control.Reload(*AGENT, revision, settings))


def said(daemon: daemons.Daemon, wanted: Callable[[control.Status], bool]) -> control.Status:
    status = daemon.until(lambda message: isinstance(message, control.Status) and wanted(message))
    assert isinstance(status, control.Status)
    return status


def flow(stage: Stage, omsd: Omsd, count: int) -> list[orders.Place]:
    """So many orders as they reach omsd; each ends at once, and so the next one comes."""
    came = []
    for _ in range(count):
        came.append(stage.place(omsd))
        omsd.report(came[-1], OrderState.CANCELLED, reason=reasons.VENUE_CANCEL)
    return came


def numbers(came: list[orders.Place] | list[orders.Report]) -> list[int]:
    return [int(each.client_order_id.rpartition("-")[2]) for each in came]


def test_the_next_quote_obeys_a_parameter_that_changes_and_no_order_is_lost(stage: Stage) -> None:
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    before = flow(stage, omsd, 20)
    assert {place.quantity for place in before} == {ONE // 1000}
    assert said(stage.strategyd, lambda _: True).config_revision == 1

    reload(stage.strategyd, 2, STRATEGY | {"order_notional": "1000"})
    during = flow(stage, omsd, 20)
    status = said(stage.strategyd, lambda status: status.config_revision == 2)
    assert status.config_refused == ""
    after = flow(stage, omsd, 20)
    quantities = [place.quantity for place in during + after]
    assert quantities == sorted(quantities), "once it obeys, it obeys"
    # One of each side may have been on its way.
    assert {place.quantity for place in after[2:]} == {16 * ONE // 1000}
    came = numbers(before + during + after)
    assert came == list(range(came[0], came[0] + 60)), "one was lost, or came twice"


def test_bad_settings_leave_the_running_ones_and_say_why(stage: Stage) -> None:
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    flow(stage, omsd, 2)
    reload(stage.strategyd, 2, STRATEGY | {"order_notional": "1000", "skew_ppm": -1})
    refused = said(stage.strategyd, lambda status: status.config_refused != "")
    assert refused.config_revision == 1 and "skew_ppm -1: must be 0 to 1000000" in refused.config_refused
    reload(stage.strategyd, 3, STRATEGY | {"order_notional": "1000", "risk": "riskd-2"})
    refused = said(stage.strategyd, lambda status: "revision 3" in status.config_refused)
    assert "risk: changes only with a restart of the instance" in refused.config_refused
    assert {place.quantity for place in flow(stage, omsd, 10)} == {ONE // 1000}
    reload(stage.strategyd, 4, STRATEGY)
    assert said(stage.strategyd, lambda status: status.config_revision == 4).config_refused == ""


def a_place(n: int) -> orders.Place:
    return orders.Place(
        1, n, 0, "strategy-x-alpha-1", None, f"strategy-x-1-{n}", "strategy-x", "spot", "BTCUSDT",
        orders.Side.BUY, orders.Kind.POST_ONLY, BID, ONE, 0, 0,
    )  # fmt: skip


def test_a_new_limit_applies_to_orders_that_wait_for_their_approval(stage: Stage) -> None:
    """They come while riskd sleeps, and then the limit that forbids them: it is read between two of them, and
    from there on none is approved.
    """
    count = 300
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    stage.place(omsd)  # riskd knows prices and positions
    assert stage.strategyd.end() == 0
    with contextlib.closing(bus.link.Dealer("strategy-x.1", stage.riskd.endpoint("intents"))) as strategy:
        who = codec.ProcessOnWire("strategy-x-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 4711, 1)
        hello = codec.encode(orders.Attach(1, 1, 0, who.instance, None, who, "strategy-x"))
        daemons.wait_for("riskd takes the link", lambda: strategy.send(hello))
        daemons.receive(
            strategy.socket, orders.decode_coming_back, lambda message: isinstance(message, orders.Attached)
        )
        assert stage.riskd.process is not None
        stage.riskd.process.send_signal(signal.SIGSTOP)
        for n in range(1, count + 1):
            assert strategy.send(codec.encode(a_place(n)))
        reload(stage.riskd, 2, {"max_order_size": "0.5"})
        stage.riskd.process.send_signal(signal.SIGCONT)
        refused: list[orders.Report] = []
        while not refused or numbers(refused)[-1] < count:
            told = daemons.receive(strategy.socket, orders.decode_coming_back)
            refused += [told] if isinstance(told, orders.Report) else []
    assert {report.reason for report in refused} == {reasons.ORDER_SIZE}
    assert "the limit is 0.5" in refused[0].text
    assert numbers(refused) == list(range(count - len(refused) + 1, count + 1)), "one slipped through"
    assert said(stage.riskd, lambda status: status.config_revision == 2).config_refused == ""


def test_the_revision_of_the_limits_is_under_each_approval(stage: Stage) -> None:
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    first = flow(stage, omsd, 1)[0]
    assert first.approval is not None and first.approval.limits_revision == 1
    reload(stage.riskd, 7, {"max_order_size": "99"})
    said(stage.riskd, lambda status: status.config_revision == 7)
    flow(stage, omsd, 4)  # of which some were approved before
    later = stage.place(omsd)
    assert later.approval is not None and later.approval.limits_revision == 7
    assert stage.macs().fits(later, later.approval)


class Orders:
    """omsd and execd as processes, both leading; riskd and the venue as tests/support/order_path.py has
    them.
    """

    def __init__(self, folder: Path, omsd: daemons.Daemon, execd: daemons.Daemon) -> None:
        self.omsd, self.execd = omsd, execd
        macs = claims.macs(folder / "site")
        key = secret.derived(secret.read_or_make(folder / "site"), approvals.PURPOSE)
        self.venue = order_path.Venue(
            bus.link.Router(f"ipc://{folder}/simd.orders"),
            Fences(folder / "venue.json", store_tokens.highest),
            macs,
        )
        self.riskd = order_path.Riskd(
            bus.link.Router(f"ipc://{folder}/riskd.orders"), approvals.Macs(key), macs
        )
        self.peers = [
            daemons.peers("simd", orders=f"ipc://{folder}/simd.orders"),
            daemons.peers("riskd", orders=f"ipc://{folder}/riskd.orders"),
            daemons.peers("execd", orders=execd.endpoint("orders")),
        ]

    def start(self) -> None:
        self.execd.start(*self.peers)
        self.execd.lead(1)
        self.omsd.start(*self.peers)
        self.omsd.lead(1)
        self.until("omsd is active", lambda: self.riskd.omsd)

    def turn(self) -> None:
        self.venue.turn()
        self.riskd.turn()
        time.sleep(0.001)

    def until(self, what: str, found: Callable[[], Any]) -> Any:
        return daemons.wait_for(what, lambda: (self.turn(), found())[1])

    def ends_as(self, name: str, state: OrderState) -> None:
        self.until(f"{name} is {state.name}", lambda: self.riskd.states(name)[-1:] == [state])

    def close(self) -> None:
        self.venue.router.close()
        self.riskd.router.close()


@contextlib.contextmanager
def order_processes(flags: dict[str, Any]) -> Iterator[Orders]:
    with (
        tempfile.TemporaryDirectory(prefix="o-") as name,
        daemons.daemon(Path(name), "omsd", leads=True) as omsd,
        daemons.daemon(Path(name), "execd", leads=True) as execd,
        contextlib.closing(Orders(Path(name), omsd, execd)) as one,
    ):
        config = Path(name) / f"{omsd.instance}.config"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"flags": flags, "revision": 5}))
        one.start()
        yield one


def test_the_kill_switch_refuses_within_a_second_and_cancels_pass() -> None:
    with order_processes({}) as one:
        working = one.riskd.place()
        one.ends_as(working, OrderState.WORKING)
        assert said(one.omsd, lambda _: True).config_revision == 5

        one.omsd.say(control.Flags(*AGENT, {"kill_switch": True}))
        set_ns = time.monotonic_ns()
        while True:
            name, placed_ns = one.riskd.place(), time.monotonic_ns()
            one.until("omsd answers", lambda each=name: one.riskd.states(each))
            if one.riskd.states(name)[-1] is OrderState.REFUSED:
                break
            assert placed_ns - set_ns < 1_000_000_000, "an order passed a second after the switch was set"
        assert one.riskd.reasons(name) == [reasons.KILL_SWITCH]
        one.riskd.cancel(working)
        one.ends_as(working, OrderState.CANCELLED)
        status = said(one.omsd, lambda status: "kill_switch" in {each.id for each in status.alarms})
        assert [each.severity for each in status.alarms if each.id == "kill_switch"] == ["warning"]
        one.omsd.counted("kill_switch_refusals")

        one.omsd.say(control.Flags(*AGENT, {}))
        said(one.omsd, lambda status: "kill_switch" not in {each.id for each in status.alarms})
        one.ends_as(one.riskd.place(), OrderState.WORKING)


def test_an_omsd_that_starts_while_the_switch_is_set_takes_no_first_order() -> None:
    with order_processes({"kill_switch": None}) as one:
        first = one.riskd.place()
        one.ends_as(first, OrderState.REFUSED)
        assert one.riskd.reasons(first) == [reasons.KILL_SWITCH]
        one.omsd.say(control.Flags(*AGENT, {"kill_switch": False}))
        said(one.omsd, lambda status: not status.alarms or "kill_switch" not in {a.id for a in status.alarms})
        one.ends_as(one.riskd.place(), OrderState.WORKING)


def test_omsd_takes_settings_while_orders_work() -> None:
    with order_processes({}) as one:
        working = [one.riskd.place() for _ in range(3)]
        for name in working:
            one.ends_as(name, OrderState.WORKING)
        reload(one.omsd, 6, {"open_orders_max": 3, "segment_bytes": 4096})
        assert said(one.omsd, lambda status: status.config_revision == 6).config_refused == ""
        refused = one.riskd.place()
        one.ends_as(refused, OrderState.REFUSED)
        assert one.riskd.reasons(refused) == [reasons.TOO_MANY_ORDERS]
        one.riskd.cancel(working[0])
        one.ends_as(working[0], OrderState.CANCELLED)
        one.ends_as(one.riskd.place(), OrderState.WORKING)
        assert [one.riskd.states(name)[-1] for name in working[1:]] == [OrderState.WORKING] * 2
