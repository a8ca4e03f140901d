"""strategyd and riskd as processes, the test as bookd, positiond and omsd: a tick becomes an approved order,
and a new omsd gets the next one.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from controlplane.host import secret
from hftd import bus
from hftd.engine import fixed, reasons
from hftd.engine.orders import approvals
from hftd.shm import pages
from hftd.wire import codec, control, orders
from tests.support import claims, daemons

ONE = fixed.UNIT
TICK = ONE // 100
BID, ASK = 6_180_000 * TICK, 6_180_010 * TICK


class Omsd:
    """The order manager's end of riskd's `orders`, as one process of the group."""

    def __init__(self, endpoint: str, epoch: int, site_dir: Path, host: str = "alpha") -> None:
        self.instance, self.token = f"omsd-{host}-1", codec.TokenOnWire(7, "omsd", epoch)
        self.claimant = codec.ProcessOnWire(self.instance, "6e2b1c1e-0000-4000-8000-000000000000", epoch, 1)
        self.dealer = bus.link.Dealer(f"{self.instance}.{epoch}", endpoint)
        self.site_dir = site_dir

    def _send(self, message: orders.ComingBack | orders.TowardsVenue) -> None:
        daemons.wait_for("riskd takes the link", lambda: self.dealer.send(codec.encode(message)))

    def attach(self) -> orders.Attached:
        attach = orders.Attach(1, 0, 0, self.instance, self.token, self.claimant)
        self._send(claims.signed(attach, self.dealer, self.site_dir))
        answer = self.next(orders.Attached)
        assert isinstance(answer, orders.Attached)
        return answer

    def report(
        self, place: orders.Place, state: orders.OrderState, execution: int = 0, reason: str = ""
    ) -> None:
        filled = place.quantity if state is orders.OrderState.FILLED else 0
        self._send(
            orders.Report(
                1, 0, 0, self.instance, self.token, 0, execution, "omsd-1-1", place.client_order_id,
                place.strategy, place.market, place.symbol,
                place.side, state, place.price, place.quantity, filled, place.price if execution else 0,
                filled, reason, "", 0,
            )
        )  # fmt: skip

    def refuse(self, place: orders.Place | orders.Cancel, reason: str) -> None:
        self._send(
            orders.Refusal(
                1,
                0,
                0,
                self.instance,
                self.token,
                reason,
                reasons.text(reason),
                "",
                place.client_order_id,
                place.strategy,
            )
        )

    def next(self, kind: type) -> Any:
        return daemons.receive(
            self.dealer.socket, orders.decode_coming_back, lambda message: isinstance(message, kind)
        )

    def close(self) -> None:
        self.dealer.close()


class Stage:
    def __init__(self, folder: Path, riskd: daemons.Daemon, strategyd: daemons.Daemon) -> None:
        self.riskd, self.strategyd = riskd, strategyd
        self.bookd = daemons.Bookd(folder)
        self.positions = bus.publish.Publisher(f"ipc://{folder}/p.positions")
        self.told = daemons.peers("positiond", positions=f"ipc://{folder}/p.positions")
        self.risk = daemons.peers("riskd", intents=riskd.endpoint("intents"))
        self.omsds: list[Omsd] = []
        self.said = orders.Position(1, 1, 0, "positiond", None, "spot", "BTCUSDT", 0, 0, 0, 0, 0, 0)
        """What positiond says each time."""

    def macs(self) -> approvals.Macs:
        """As execd has them: of the secret in the site folder, which riskd has made."""
        folder = self.riskd.folder / "site"
        return approvals.Macs(secret.derived(secret.read_or_make(folder), approvals.PURPOSE))

    def omsd(self, epoch: int, host: str = "alpha") -> Omsd:
        self.omsds.append(Omsd(self.riskd.endpoint("orders"), epoch, self.riskd.folder / "site", host))
        return self.omsds[-1]

    def market(self, bid: int = BID, ask: int = ASK) -> None:
        self.positions.send(codec.encode(self.said))
        self.bookd.instrument()
        self.bookd.top(bid, ask)

    def place(self, omsd: Omsd, bid: int = BID, ask: int = ASK) -> orders.Place:
        """The next order that reaches this omsd while the market is there."""

        def came() -> bool:
            self.market(bid, ask)
            return bool(omsd.dealer.socket.poll(20))

        while True:
            daemons.wait_for("an order", came)
            message = orders.decode_coming_back(omsd.dealer.socket.recv())
            if isinstance(message, orders.Place):
                return message

    def close(self) -> None:
        for omsd in self.omsds:
            omsd.close()
        self.bookd.close()
        self.positions.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    # Skew off: the test's book is the same on both sides anyway. Short times: the tests wait for both.
    settings = {"requote_interval_s": 0.05, "acknowledge_timeout_s": 1.0, "skew_ppm": 0}
    with (
        daemons.daemon(tmp_path, "riskd", {"strategy_silent_s": 1.5}, leads=True) as riskd,
        daemons.daemon(tmp_path, "strategyd", settings, service="strategy-mm") as strategyd,
    ):
        one = Stage(tmp_path, riskd, strategyd)
        try:
            yield one
        finally:
            one.close()


def start(stage: Stage) -> None:
    stage.riskd.start(stage.bookd.peers, stage.told)
    stage.riskd.lead(3)
    stage.strategyd.start(stage.bookd.peers, stage.told, stage.risk)
    stage.strategyd.ready()


def test_a_tick_becomes_an_order_signed_with_risks_token_and_a_fill_goes_back(stage: Stage) -> None:
    start(stage)
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    first, second = stage.place(omsd), stage.place(omsd)
    assert {first.side, second.side} == {
        orders.Side.BUY,
        orders.Side.SELL,
    } and first.kind is orders.Kind.POST_ONLY
    assert {first.price, second.price} == {BID, ASK} and first.origin_ns > 0
    assert first.approval is not None and first.approval.token == first.token == codec.TokenOnWire(
        1, "riskd", 3
    )
    assert (
        first.client_order_id.startswith("strategy-mm-") and first.client_order_id != second.client_order_id
    )
    omsd.report(first, orders.OrderState.FILLED, execution=1)
    omsd.report(second, orders.OrderState.WORKING)
    assert stage.strategyd.counted("fills").counters["fills"] == 1
    # The filled side is quoted anew, the working one follows the touch in one message.
    third = stage.place(omsd)
    assert third.side is first.side
    omsd.report(third, orders.OrderState.WORKING)
    for _ in range(200):
        stage.market(BID + 5 * TICK, ASK + 5 * TICK)
        if omsd.dealer.socket.poll(20):
            break
    moved = [omsd.next(orders.Place) for _ in range(2)]
    assert {place.replaces for place in moved} == {second.client_order_id, third.client_order_id}
    assert all(place.approval is not None for place in moved)


def test_who_connects_as_a_strategy_or_an_omsd_mutes_neither(stage: Stage) -> None:
    """Another process of this user, with the identity that each would have if it could be guessed."""
    start(stage)
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    assert stage.strategyd.process is not None
    strategy = f"{stage.strategyd.instance}.{stage.strategyd.process.pid}"
    with zmq.Context() as context, contextlib.ExitStack() as strangers:
        for socket, name in (("intents", strategy), ("orders", f"{omsd.instance}.1")):
            stranger = strangers.enter_context(context.socket(zmq.DEALER))
            stranger.linger, stranger.identity = 0, name.encode()
            stranger.connect(stage.riskd.endpoint(socket))
            stranger.send(b"it is me")
        stage.riskd.counted("undecodable", 2)
        first = stage.place(omsd)
        omsd.report(first, orders.OrderState.FILLED, execution=1)
        assert stage.strategyd.counted("fills").counters["fills"] == 1
        assert stage.place(omsd).side is not None
        assert not any(each.poll(0) for each in (stranger,)), "nothing of it goes to the stranger"


def test_rehearsals_go_as_far_as_an_order_and_count_in_no_limit(tmp_path: Path) -> None:
    settings = {"requote_interval_s": 0.05, "rehearsal_interval_s": 0.005}
    with (
        daemons.daemon(tmp_path, "riskd", {"messages_per_s": 20, "message_burst": 10}, leads=True) as riskd,
        daemons.daemon(tmp_path, "strategyd", settings, service="strategy-mm") as strategyd,
        contextlib.closing(Stage(tmp_path, riskd, strategyd)) as stage,
    ):
        start(stage)
        omsd = stage.omsd(1)
        assert omsd.attach().ok
        first = stage.place(omsd)
        for _ in range(50):
            rehearsed = omsd.next(orders.Rehearsal).place
        macs = stage.macs()
        assert first.approval is not None and macs.fits(first, first.approval)
        assert rehearsed.approval == macs.approval(
            rehearsed, 0, codec.TokenOnWire(1, "riskd", 3), first.approval.limits_revision
        ), "made with the same care, and of nothing"
        assert (rehearsed.client_order_id, rehearsed.price, rehearsed.origin_ns) == (
            first.client_order_id.rpartition("-")[0] + "-0",
            BID,
            0,
        )
        (row,) = riskd.ask("risk")
        assert row["working_buy"] in ("0", "0.001"), "of a thousand rehearsals none is an order"
        assert not riskd.counted("rehearsals", 100).counters.get('refused_by{reason="message_rate"}')
        # Without an order manager they are refused and become few.
        omsd.close()
        stage.omsds.clear()
        seen = [strategyd.counted("rehearsals").counters["rehearsals"]]

        def few(message: control.FromDaemon) -> bool:
            if not isinstance(message, control.Status):
                return False
            seen.append(message.counters["rehearsals"])
            return (
                0 < seen[-1] - seen[-2] < 50
            )  # between two reports a second apart: some two hundred when they are not refused

        strategyd.until(few)
        # To a riskd that cannot answer none is sent: it would find them all when it wakes.
        assert riskd.process is not None
        riskd.process.send_signal(signal.SIGSTOP)
        silent = strategyd.ready(False).counters["rehearsals"]
        assert (
            strategyd.until(lambda message: isinstance(message, control.Status)).counters["rehearsals"]
            == silent
        )
        riskd.process.send_signal(signal.SIGCONT)
        strategyd.counted("rehearsals", silent + 10)


def test_of_a_replacement_that_is_refused_the_cancel_goes_on(stage: Stage) -> None:
    stage.riskd.start(stage.bookd.peers, stage.told)
    stage.riskd.lead(3)
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    strategy = bus.link.Dealer("strategy-x-alpha-1.1", stage.riskd.endpoint("intents"))
    unknown = orders.Place(
        1, 1, 0, "strategy-x-alpha-1", None, "strategy-x-1-2", "strategy-x", "spot", "NOSUCH",
        orders.Side.BUY, orders.Kind.LIMIT, 1, 1, 0, 0,
        replaces="strategy-x-1-1",
    )  # fmt: skip
    daemons.wait_for("riskd takes the link", lambda: strategy.send(codec.encode(unknown)))
    assert omsd.next(orders.Cancel).client_order_id == "strategy-x-1-1"
    told = daemons.receive(
        strategy.socket, orders.decode_coming_back, lambda message: isinstance(message, orders.Report)
    )
    assert (told.state, told.client_order_id) == (orders.OrderState.REFUSED, "strategy-x-1-2")
    strategy.close()


def test_a_strategy_is_who_it_says_it_is_and_one_that_does_not_say_is_refused(stage: Stage) -> None:
    """Neither the instance id nor the client order id names the service; a refusal finds it all the same."""
    stage.riskd.start(stage.bookd.peers, stage.told)
    stage.riskd.lead(3)
    omsd = stage.omsd(1)
    assert omsd.attach().ok
    who = codec.ProcessOnWire("mm-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 4711, 1)

    def hello(link: bus.link.Dealer, service: str) -> orders.Attached:
        attach = orders.Attach(1, 1, 0, who.instance, None, who, service)
        daemons.wait_for("riskd takes the link", lambda: link.send(codec.encode(attach)))
        return daemons.receive(
            link.socket, orders.decode_coming_back, lambda message: isinstance(message, orders.Attached)
        )

    with contextlib.ExitStack() as stack:
        links = {}
        for service in ("mm", "mm-alpha", "anonymous"):
            links[service] = bus.link.Dealer(f"link-{service}", stage.riskd.endpoint("intents"))
            stack.callback(links[service].close)
        nameless = hello(links["anonymous"], "")
        assert not nameless.ok and "service" in nameless.reason
        assert hello(links["mm"], "mm").ok and hello(links["mm-alpha"], "mm-alpha").ok
        cancel = orders.Cancel(1, 2, 0, who.instance, None, "an-id-of-before", "mm", "spot", "BTCUSDT", 0)
        assert links["mm-alpha"].send(codec.encode(cancel))
        passed_on = omsd.next(orders.Cancel)
        omsd.refuse(passed_on, reasons.UNKNOWN_ORDER)
        refusal = daemons.receive(
            links["mm"].socket,
            orders.decode_coming_back,
            lambda message: isinstance(message, orders.Refusal),
        )
        assert (refusal.client_order_id, refusal.strategy) == ("an-id-of-before", "mm")
        assert not links["mm-alpha"].socket.poll(0), "it goes to whose order it was"


def test_a_new_omsd_is_given_orders_at_once_and_the_old_one_is_refused(stage: Stage) -> None:
    start(stage)
    old = stage.omsd(1)
    old.attach()
    first = stage.place(old)
    old.report(first, orders.OrderState.WORKING)
    new = stage.omsd(2, "beta")
    assert new.attach().ok
    next_one = stage.place(new)
    assert next_one.client_order_id not in (first.client_order_id,)
    old.report(first, orders.OrderState.FILLED, execution=1)
    refusal = old.next(orders.Refusal)
    assert refusal.reason == reasons.STALE_TOKEN
    assert not old.attach().ok
    assert stage.riskd.counted("stale_token_refusals", 2).counters["stale_token_refusals"] == 2
    assert stage.strategyd.counted("orders", 3).counters.get("fills", 0) == 0


def test_an_order_that_the_order_manager_does_not_know_is_forgotten_and_quoted_anew(stage: Stage) -> None:
    start(stage)
    omsd = stage.omsd(1)
    omsd.attach()
    first = stage.place(omsd)
    omsd.report(first, orders.OrderState.WORKING)
    for _ in range(400):
        stage.market(BID + 5 * TICK, ASK + 5 * TICK)
        if omsd.dealer.socket.poll(10) and getattr(
            orders.decode_coming_back(omsd.dealer.socket.recv()), "replaces", ""
        ):
            break
    omsd.refuse(first, reasons.UNKNOWN_ORDER)
    stage.strategyd.counted("refusals")
    assert stage.riskd.ask("risk")[0]["working_buy"] in ("0", "0.001", "0.002")


def test_without_the_lead_or_an_omsd_nothing_is_approved_and_the_reason_is_told(stage: Stage) -> None:
    stage.riskd.start(stage.bookd.peers, stage.told)
    stage.strategyd.start(stage.bookd.peers, stage.told, stage.risk)
    assert (
        stage.strategyd.until(
            lambda message: getattr(message, "reason", "") == reasons.text(reasons.NOT_ACTIVE)
        ).ready
        is False
    )
    stage.riskd.lead(3)
    stage.strategyd.ready()

    def refused() -> bool:
        stage.market()
        return bool(stage.strategyd.agent.socket.poll(20)) and _rejects(stage.strategyd) > 0

    daemons.wait_for("a refusal", refused)
    assert stage.riskd.counted('refused_by{reason="no_omsd"}')
    # An omsd comes, and the strategy trades without being told anything.
    omsd = stage.omsd(1)
    omsd.attach()
    assert stage.place(omsd).approval
    stage.riskd.lead(3, pages.Wanted.HAND_OVER)
    assert stage.strategyd.ready(False).reason == reasons.text(reasons.NOT_ACTIVE)


def _rejects(strategyd: daemons.Daemon) -> int:
    message = control.decode_from_daemon(strategyd.agent.socket.recv_multipart()[-1])
    return (
        message.counters.get('rejects_by{reason="no_omsd"}', 0) if isinstance(message, control.Status) else 0
    )


def test_a_strategy_that_dies_has_its_working_orders_cancelled(stage: Stage) -> None:
    start(stage)
    omsd = stage.omsd(1)
    omsd.attach()
    working = [stage.place(omsd), stage.place(omsd)]
    for place in working:
        omsd.report(place, orders.OrderState.WORKING)
    stage.strategyd.counted("orders", 2)
    stage.strategyd.end(9)
    assert {omsd.next(orders.Cancel).client_order_id for _ in working} == {
        place.client_order_id for place in working
    }
