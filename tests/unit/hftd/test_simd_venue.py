"""The venue's order desk: tokens, reports in order, what is journaled before it is said, and what is left
after a crash.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from hftd.daemons.simd import journal, session
from hftd.engine import accounts, fixed, reasons
from hftd.engine.orders import claims
from hftd.storage import fences
from hftd.storage.journal import JournalFull
from hftd.venues import binance, sim
from hftd.wire import codec, orders, requests
from hftd.wire.orders import Kind, OrderState, Side
from tests.support import store_tokens

MACS = claims.Macs(bytes(32))
EXECD, OTHER = b"execd-alpha-1", b"somebody"
UNIT = accounts.UNIT
BTC = requests.Instrument(0, "spot", "BTCUSDT", -8, -8, "spot")
COIN = requests.Instrument(1, "cm", "BTCUSD_PERP", -8, -8, "inverse")


def token(group: str, epoch: int) -> codec.TokenOnWire:
    return codec.TokenOnWire(1, group, epoch)


def claimant(name: str) -> codec.ProcessOnWire:
    return codec.ProcessOnWire(name, "6e2b1c1e-0000-4000-8000-000000000000", 1, 1)


def envelope(epoch: int | None) -> tuple[int, int, int, str, codec.TokenOnWire | None]:
    return (codec.VERSION, 1, 0, "omsd-alpha-1", None if epoch is None else token("omsd", epoch))


class Desk:
    """A venue with its session on a real journal, and every message it sent, decoded."""

    def __init__(self, folder: Path, *, gateway: bytes = b"") -> None:
        self.folder, self.journal = folder, journal.VenueJournal(folder)
        self.out: list[tuple[bytes, Any]] = []
        self.counts: dict[str, int] = {}
        self.connected = True
        ticks = itertools.count(1)
        self.venue = sim.Venue(
            [BTC, COIN],
            self.journal.accounts,
            self.journal.last_execution,
            "simd-alpha-1",
            lambda: next(ticks),
        )
        self.session = session.Session(
            self.venue,
            self.journal,
            fences.Fences(folder / "fences.json", store_tokens.highest),
            self._send,
            lambda link, fence: MACS.fits(fence, link),
            source="simd-alpha-1",
            gateway=gateway,
            count=self._count,
        )

    def _send(self, identity: bytes, frame: bytes) -> bool:
        if self.connected:
            self.out.append((identity, orders.decode_coming_back(frame)))
        return self.connected

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def tape(self, raw: bytes, instrument: int = 0) -> None:
        assert self.venue.line(instrument, 1, raw) == ""
        self.session.pump()

    def book(self, bid: int = 100, ask: int = 102, instrument: int = 0) -> None:
        self.tape(binance.snapshot(10, [(bid * UNIT, 5 * UNIT)], [(ask * UNIT, 5 * UNIT)]), instrument)

    def handle(self, message: orders.TowardsVenue, sender: bytes = EXECD) -> list[Any]:
        """What came back for this."""
        before = len(self.out)
        self.session.handle(sender, message)
        return [answer for _, answer in self.out[before:]]

    def fence(
        self,
        group: str,
        epoch: int,
        gateway: int | None = None,
        by: str = "",
        sender: bytes = EXECD,
        signed_for: bytes = b"",
    ) -> orders.Fenced:
        envelope = (codec.VERSION, 1, 0, "execd-alpha-1", token(group, epoch))
        beside = None if gateway is None else token("execd", gateway)
        fence = orders.Fence(*envelope, claimant(by or f"{group}-alpha-1"), beside)
        [answer] = self.handle(MACS.fence(fence, signed_for or sender), sender)
        return answer

    def fenced(self) -> Desk:
        assert self.fence("execd", 1).ok and self.fence("omsd", 1, gateway=1).ok
        return self

    def place(
        self,
        order_id: str,
        side: Side = Side.BUY,
        price: int = 100,
        quantity: int = UNIT,
        kind: Kind = Kind.LIMIT,
        **given: Any,
    ) -> list[Any]:
        return self.handle(a_place(order_id, side, price, quantity, kind, **given))

    def close(self) -> None:
        self.journal.close()


def a_place(
    order_id: str,
    side: Side = Side.BUY,
    price: int = 100,
    quantity: int = UNIT,
    kind: Kind = Kind.LIMIT,
    epoch: int | None = 1,
    gateway: int | None = 1,
    symbol: str = "BTCUSDT",
    market: str = "spot",
    replaced_id: str = "",
) -> orders.Place:
    return orders.Place(
        *envelope(epoch),
        client_order_id=f"c-{order_id}",
        strategy="strategy-mm",
        market=market,
        symbol=symbol,
        side=side,
        kind=kind,
        price=price * UNIT,
        quantity=quantity,
        origin_ns=0,
        origin_seq=0,
        order_id=order_id,
        gateway=None if gateway is None else token("execd", gateway),
        replaced_id=replaced_id,
    )


def a_cancel(order_id: str, epoch: int | None = 1, gateway: int | None = 1) -> orders.Cancel:
    gate = None if gateway is None else token("execd", gateway)
    return orders.Cancel(
        *envelope(epoch), f"c-{order_id}", "strategy-mm", "spot", "BTCUSDT", 0, order_id, gate
    )


def cancel_all(epoch: int | None = 1, gateway: int | None = 1) -> orders.CancelAll:
    return orders.CancelAll(*envelope(epoch), 9, None if gateway is None else token("execd", gateway))


def trade(price: int, quantity: int) -> bytes:
    """A seller meets the bids."""
    return binance.trade("BTCUSDT", 1, 1, price * UNIT, quantity, buyer_is_maker=True)


@pytest.fixture
def desk(tmp_path: Path):
    made = Desk(tmp_path)
    yield made
    made.close()


def told(answers: list[Any]) -> list[tuple[str, OrderState, int]]:
    return [(each.order_id, each.state, each.filled) for each in answers]


# --- orders and their reports -------------------------------------------------------------------------------


def test_an_order_rests_fills_and_moves_the_account(desk: Desk) -> None:
    desk.fenced().book()
    assert told(desk.place("a", quantity=2 * UNIT)) == [("a", OrderState.WORKING, 0)]
    before = len(desk.out)
    desk.tape(trade(100, 6 * UNIT))
    desk.tape(trade(99, 9 * UNIT))
    reports = [answer for _, answer in desk.out[before:]]
    assert told(reports) == [("a", OrderState.PARTIALLY_FILLED, UNIT), ("a", OrderState.FILLED, 2 * UNIT)]
    assert [(each.execution_id, each.last_price, each.last_quantity) for each in reports] == [
        (1, 100 * UNIT, UNIT),
        (2, 100 * UNIT, UNIT),
    ]
    assert (
        reports[0].client_order_id == "c-a"
        and reports[0].strategy == "strategy-mm"
        and reports[0].price == 100 * UNIT
    )
    [answer] = desk.handle(orders.AccountsWanted(*envelope(1), 4))
    assert (answer.request, answer.accounts, answer.last_execution) == (
        4,
        [orders.Account("spot", "BTCUSDT", 2 * UNIT, -200 * UNIT)],
        2,
    )
    assert desk.counts == {"orders": 1, "fills": 2}


def test_rejections_carry_a_reason_and_its_sentence(desk: Desk) -> None:
    desk.fenced()
    [early] = desk.place("a")
    assert (early.state, early.reason) == (OrderState.REJECTED, reasons.NO_PRICE)
    desk.book()
    [taking] = desk.place("b", price=102, kind=Kind.POST_ONLY)
    assert (taking.state, taking.reason, taking.text) == (
        OrderState.REJECTED,
        reasons.WOULD_TAKE,
        "Post-only order would take liquidity",
    )
    desk.book(instrument=1)
    for market, symbol in (("cm", "BTCUSD_PERP"), ("spot", "DOGE")):
        [foreign] = desk.place(f"c-{symbol}", market=market, symbol=symbol)
        assert foreign.reason == reasons.UNKNOWN_INSTRUMENT
    assert desk.counts["rejects"] == 4


def test_a_cancel_ends_an_order_and_a_second_one_hears_the_last_word_again(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a")
    [first] = desk.handle(a_cancel("a"))
    [again] = desk.handle(a_cancel("a"))
    assert first == again and (first.state, first.reason) == (OrderState.CANCELLED, "")
    [unknown] = desk.handle(a_cancel("never"))
    assert isinstance(unknown, orders.Refusal) and (unknown.reason, unknown.order_id) == (
        reasons.UNKNOWN_ORDER,
        "never",
    )


def test_a_replacement_cancels_first_whatever_becomes_of_the_new_order(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a")
    assert told(desk.place("b", price=99, replaced_id="a")) == [
        ("a", OrderState.CANCELLED, 0),
        ("b", OrderState.WORKING, 0),
    ]
    assert desk.fence("omsd", 2, gateway=1).ok
    cancelled, refused = desk.place("c", replaced_id="b")
    assert told([cancelled]) == [("b", OrderState.CANCELLED, 0)] and refused.reason == reasons.STALE_TOKEN
    assert not desk.venue.working
    desk.place("d", epoch=2)
    assert [answer.reason for answer in desk.place("e", replaced_id="d")] == [reasons.STALE_TOKEN] * 2, (
        "a newer epoch's order is not its to cancel"
    )


def test_an_order_id_is_used_once(desk: Desk) -> None:
    """Refused as a message: a report would end the order that works under this id."""
    desk.fenced().book()
    desk.place("a")
    for _ in range(2):
        [refusal] = desk.place("a")
        assert isinstance(refusal, orders.Refusal) and refusal.reason == reasons.DUPLICATE
        desk.handle(a_cancel("a"))


def test_open_orders_and_executions_are_told_when_wanted(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=102, quantity=UNIT)
    desk.place("b", price=102, quantity=7 * UNIT)
    [answer] = desk.handle(orders.OpenOrdersWanted(*envelope(1), 5, token("execd", 1)))
    assert [(each.order_id, each.filled, each.quantity) for each in answer.orders] == [
        ("b", 4 * UNIT, 7 * UNIT)
    ]
    [executions] = desk.handle(orders.ExecutionsWanted(*envelope(1), 6, 1, token("execd", 1)))
    assert [(each.execution_id, each.order_id) for each in executions.executions] == [(2, "b")]


def test_cancel_all_reports_each_order_before_it_answers(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=99)
    desk.place("b", Side.SELL, 103)
    *reports, done = desk.handle(cancel_all())
    assert (
        told(reports) == [("a", OrderState.CANCELLED, 0), ("b", OrderState.CANCELLED, 0)]
        and reports[0].reason == reasons.TAKE_OVER
    )
    assert isinstance(done, orders.CancelledAll) and (done.request, done.cancelled) == (9, 2)


def test_the_end_of_the_tape_cancels_and_closes(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=99)
    assert desk.venue.end() == 1
    desk.session.pump()
    assert (desk.out[-1][1].state, desk.out[-1][1].reason) == (OrderState.CANCELLED, reasons.TAPE_END)
    [late] = desk.place("b", price=99)
    assert late.reason == reasons.TAPE_END


# --- tokens -------------------------------------------------------------------------------------------------


def test_an_order_of_an_older_epoch_is_refused_and_counted(desk: Desk) -> None:
    desk.fenced().book()
    assert desk.fence("omsd", 2, gateway=1).ok
    [refusal] = desk.place("a", epoch=1)
    assert isinstance(refusal, orders.Refusal) and (refusal.reason, refusal.order_id) == (
        reasons.STALE_TOKEN,
        "a",
    )
    assert desk.counts["stale_token_refusals"] == 1 and not desk.venue.working
    assert told(desk.place("a", epoch=2)) == [("a", OrderState.WORKING, 0)]


@pytest.mark.parametrize(
    ("epoch", "gateway", "reason"),
    [
        (None, 1, reasons.NOT_FENCED),
        (1, None, reasons.NOT_FENCED),
        (2, 1, reasons.NOT_FENCED),
        (1, 2, reasons.NOT_FENCED),
        (0, 1, reasons.STALE_TOKEN),
        (1, 0, reasons.STALE_TOKEN),
    ],
)
def test_an_order_needs_both_tokens_as_they_were_fenced(
    desk: Desk, epoch: int | None, gateway: int | None, reason: str
) -> None:
    desk.fenced().book()
    [refusal] = desk.place("a", epoch=epoch, gateway=gateway)
    assert isinstance(refusal, orders.Refusal) and refusal.reason == reason and not desk.venue.working


def test_one_group_cannot_vouch_for_both_tokens(desk: Desk) -> None:
    desk.fenced().book()
    order = a_place("a", gateway=None)
    [refusal] = desk.handle(
        orders.Place(
            **{name: getattr(order, name) for name in order.__struct_fields__} | {"gateway": token("omsd", 1)}
        )
    )
    assert isinstance(refusal, orders.Refusal) and refusal.reason == reasons.NOT_FENCED


def test_an_equal_token_of_another_claimant_is_not_acknowledged(desk: Desk) -> None:
    desk.fenced()
    answer = desk.fence("omsd", 1, gateway=1, by="omsd-beta-1")
    assert not answer.ok and "claimed by omsd-alpha-1" in answer.reason
    assert desk.fence("omsd", 1, gateway=1).ok, "the first claimant may ask again"


def test_a_fence_passed_on_by_an_old_gateway_is_not_acknowledged(desk: Desk) -> None:
    desk.fenced()
    assert desk.fence("execd", 2, by="execd-alpha-2").ok
    answer = desk.fence("omsd", 2, gateway=1)
    assert not answer.ok and "execd 1/1" in answer.reason
    assert desk.fence("omsd", 2, gateway=2).ok


def test_a_fence_that_was_not_made_for_its_link_is_refused_and_the_gateway_keeps_its_reports(
    desk: Desk,
) -> None:
    """Even one that repeats what stands, or is a copy of execd's own; the fences stay as they are."""
    desk.fenced().book()
    kept = (desk.folder / "fences.json").read_bytes()
    for group, epoch, gateway in (("execd", 1, None), ("execd", 2, None), ("omsd", 1, 1), ("omsd", 2, 1)):
        answer = desk.fence(group, epoch, gateway, sender=OTHER, signed_for=EXECD)
        assert (answer.ok, answer.reason, answer.waits) == (False, reasons.FORGED_CLAIM, False)
        assert desk.out[-1][0] == OTHER
    assert (desk.folder / "fences.json").read_bytes() == kept
    desk.place("a")
    desk.tape(trade(99, UNIT))
    assert desk.out[-1][0] == EXECD and desk.out[-1][1].order_id == "a"
    assert desk.fence("omsd", 1, gateway=1).ok


def test_fences_outlive_the_process(tmp_path: Path) -> None:
    first = Desk(tmp_path).fenced()
    assert first.fence("omsd", 5, gateway=1).ok
    first.close()
    second = Desk(tmp_path)
    second.book()
    [refusal] = second.place("a", epoch=4)
    assert refusal.reason == reasons.STALE_TOKEN
    second.close()


@pytest.mark.parametrize(("epoch", "passes"), [(1, False), (2, True), (3, True), (None, True)])
def test_a_cancel_passes_for_orders_of_its_own_or_an_older_epoch(
    desk: Desk, epoch: int | None, passes: bool
) -> None:
    desk.fenced().book()
    assert desk.fence("omsd", 2, gateway=1).ok
    desk.place("a", epoch=2, price=99)
    [answer] = desk.handle(a_cancel("a", epoch=epoch))
    assert isinstance(answer, orders.Report) is passes
    assert passes or answer.reason == reasons.STALE_TOKEN


def test_a_cancel_all_of_an_older_epoch_leaves_newer_orders_alone(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", price=99)
    assert desk.fence("omsd", 2, gateway=1).ok
    desk.place("b", epoch=2, price=99)
    *reports, done = desk.handle(cancel_all(epoch=1))
    assert (
        [each.order_id for each in reports] == ["a"]
        and done.cancelled == 1
        and set(desk.venue.working) == {"b"}
    )


# --- saying it, once and in order ---------------------------------------------------------------------------


def test_reports_wait_for_a_gateway_that_is_away_and_keep_their_order(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a", quantity=2 * UNIT)
    desk.connected = False
    desk.tape(trade(99, UNIT))
    assert desk.handle(a_cancel("a")) == [] and desk.session.unsent == 2
    desk.connected = True
    before = len(desk.out)
    desk.session.pump()
    assert told([answer for _, answer in desk.out[before:]]) == [
        ("a", OrderState.PARTIALLY_FILLED, UNIT),
        ("a", OrderState.CANCELLED, UNIT),
    ]


def test_reports_go_to_the_newest_gateway(desk: Desk) -> None:
    desk.fenced().book()
    desk.place("a")
    assert desk.fence("execd", 2, by="execd-beta-1", sender=OTHER).ok
    desk.place("never", gateway=1)
    desk.tape(trade(99, UNIT))
    assert desk.out[-1][0] == OTHER and desk.out[-1][1].state is OrderState.FILLED
    assert desk.out[-2][0] == EXECD and desk.out[-2][1].reason == reasons.STALE_TOKEN


def test_a_full_journal_refuses_orders_holds_reports_back_and_loses_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.fenced().book()
    desk.place("a", quantity=2 * UNIT)
    append = desk.journal.append

    def full(_: object) -> None:
        raise JournalFull("no room")

    monkeypatch.setattr(desk.journal, "append", full)
    before = len(desk.out)
    desk.tape(trade(99, UNIT))
    assert desk.out[before:] == [] and desk.session.full == "no room"
    [refusal] = desk.place("b", price=99)
    assert isinstance(refusal, orders.Refusal) and refusal.reason == reasons.JOURNAL_FULL
    monkeypatch.setattr(desk.journal, "append", append)
    desk.session.recover()
    assert (
        told([desk.out[-1][1]]) == [("a", OrderState.PARTIALLY_FILLED, UNIT)] and len(desk.out) == before + 2
    )
    assert desk.session.full == "" and told(desk.place("c", price=99)) == [("c", OrderState.WORKING, 0)]


def test_a_gateway_that_does_not_read_can_only_cancel(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "OUTBOX_MAX", 2)
    desk.fenced().book()
    desk.connected = False
    for order_id in ("a", "b", "c", "d"):
        desk.place(order_id, price=99)
    assert set(desk.venue.working) == {"a", "b"} and desk.counts["not_taken"] == 2
    desk.handle(a_cancel("a"))
    assert set(desk.venue.working) == {"b"} and desk.session.unsent == 3
    desk.place("e", price=99, replaced_id="b")
    assert not desk.venue.working and desk.counts["not_taken"] == 3


def test_after_a_crash_accounts_and_numbers_go_on_and_working_orders_are_cancelled(tmp_path: Path) -> None:
    first = Desk(tmp_path).fenced()
    first.book()
    first.place("done", price=102)
    first.place("part", quantity=3 * UNIT, price=101)
    first.tape(trade(101, UNIT))
    first.place("open", Side.SELL, 104)
    first.place("gone", Side.SELL, 105)
    first.handle(a_cancel("gone"))
    first.close()  # the journal's lock, as the kernel would

    second = Desk(tmp_path, gateway=EXECD)
    assert [(place.order_id, filled) for place, filled in second.journal.working.values()] == [
        ("part", UNIT),
        ("open", 0),
    ]
    second.venue.restarted(second.journal.working.values())
    second.session.pump()
    reports = [answer for identity, answer in second.out if identity == EXECD]
    assert (
        told(reports) == [("part", OrderState.CANCELLED, UNIT), ("open", OrderState.CANCELLED, 0)]
        and reports[0].reason == reasons.VENUE_RESTART
    )
    assert second.venue.open_accounts() == [orders.Account("spot", "BTCUSDT", 2 * UNIT, -203 * UNIT)]
    [executions] = second.handle(orders.ExecutionsWanted(*envelope(1), 1, 0, token("execd", 1)))
    assert [each.execution_id for each in executions.executions] == [1, 2]
    second.book()
    assert second.place("next", price=102)[0].execution_id == 3
    second.close()

    third = Desk(tmp_path)
    assert not third.journal.working and third.journal.last_execution == 3
    assert third.venue.open_accounts() == [orders.Account("spot", "BTCUSDT", 3 * UNIT, -305 * UNIT)]
    third.close()


# --- the tape -----------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_venues_own_format_and_comes_only_from_a_book_in_step(desk: Desk) -> None:
    assert desk.venue.snapshot(0) is None and desk.venue.snapshot(99) is None
    desk.tape(
        binance.snapshot(
            10, [(fixed.parse("61837.63"), fixed.parse("3.78826"))], [(fixed.parse("61837.64"), UNIT)]
        )
    )
    desk.tape(
        binance.diff("BTCUSDT", 1, 11, 12, [(fixed.parse("61837.6"), UNIT)], [(fixed.parse("61837.64"), 0)])
    )
    assert desk.venue.snapshot(0) == (
        1,
        b'{"lastUpdateId":12,"bids":[["61837.63","3.78826"],["61837.6","1"]],"asks":[]}',
    )


def test_an_undecodable_line_says_why_and_changes_nothing(desk: Desk) -> None:
    desk.book()
    assert "unknown shape" in desk.venue.line(0, 2, b'{"stream":"btcusdt@trade","data":{')
    assert desk.venue.snapshot(0) is not None


def test_rebuilding_makes_the_same_book(tmp_path: Path) -> None:
    lines = [
        binance.snapshot(10, [(100 * UNIT, UNIT)], [(102 * UNIT, UNIT)]),
        trade(100, UNIT),
        binance.ticker("BTCUSDT", 11, (100 * UNIT, 1, 102 * UNIT, 1)),
        binance.diff("BTCUSDT", 1, 11, 12, [(101 * UNIT, 7)], []),
    ]
    made = Desk(tmp_path / "a"), Desk(tmp_path / "b")
    for raw in lines:
        made[0].tape(raw)
        made[1].venue.rebuild(0, 1, raw)
    assert made[0].venue.snapshot(0) == made[1].venue.snapshot(0) is not None
    for each in made:
        each.close()


def test_the_position_is_that_of_one_tape_and_a_clean_end_is_said(tmp_path: Path) -> None:
    ours, other = journal.identity(["a:1"]), journal.identity(["b:1"])
    first = journal.Position(tmp_path, ours)
    assert (first.lines, first.session, first.ended_well) == (0, 0, True)
    first.write(1234, 77)
    first.close()
    again = journal.Position(tmp_path, ours)
    assert (again.lines, again.session, again.ended_well) == (1234, 77, False)
    again.close()
    changed = journal.Position(tmp_path, other)
    assert (changed.lines, changed.session) == (0, 77)
    changed.write(0, 78, ended_well=True)
    changed.close()
    torn = (tmp_path / "position").read_bytes()
    (tmp_path / "position").write_bytes(torn[:-1] + b"\0")
    damaged = journal.Position(tmp_path, other)
    assert (damaged.lines, damaged.session) == (0, 0)
    damaged.close()
