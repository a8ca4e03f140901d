"""execd's promise: nothing of a lower token reaches the venue once a higher one was acknowledged, and no
report is lost between the two.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model import Phase, Process, Token
from hftd.engine import reasons
from hftd.engine.orders.gateway import LINKS_MAX, Gateway, Orphans, Questions, Reports, VenueFence
from hftd.storage.fences import NOBODY, Fences
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState, Side
from tests.support import store_tokens

HEAD = (1, 0, 0, "simd-alpha-1", None)
SELF = Process("execd-alpha-1", "b", 10, 1)
ALPHA = Process("omsd-alpha-1", "b", 20, 1)
BETA = Process("omsd-beta-1", "b", 30, 1)
OWN = Token(1, "execd", 1)


def claim(epoch: int, claimant: Process = ALPHA) -> VenueFence:
    return VenueFence(Token(1, "omsd", epoch), claimant)


def wire(epoch: int, group: str = "omsd") -> codec.TokenOnWire:
    return codec.TokenOnWire(1, group, epoch)


def fenced(group: str, epoch: int, *, ok: bool = True, reason: str = "") -> orders.Fenced:
    return orders.Fenced(*HEAD, group, epoch, ok, reason)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Fences(tmp_path / "fences.json", store_tokens.highest))


def active(gateway: Gateway) -> Gateway:
    gateway.lead(OWN, SELF, [])
    gateway.venue_fenced(fenced("execd", 1))
    return gateway


def fence(gateway: Gateway, one: VenueFence, identity: bytes = b"alpha") -> None:
    assert gateway.fence(identity, one) == ""
    assert gateway.hold(one) == ""
    assert gateway.venue_fenced(fenced("omsd", one.token.epoch)) == (identity, one)


# --- before it is active ------------------------------------------------------------------------------------


def test_it_is_active_only_when_the_venue_has_acknowledged_every_fence(gateway: Gateway) -> None:
    assert gateway.lead(OWN, SELF, [claim(4)])
    assert [each.token.group for each in gateway.outstanding()] == ["execd", "omsd"], (
        "its own first: the venue asks for it"
    )
    gateway.venue_fenced(fenced("omsd", 4))
    assert gateway.phase is Phase.FENCING
    gateway.venue_fenced(fenced("execd", 1))
    assert gateway.phase is Phase.ACTIVE
    assert gateway.outstanding() == []


def test_a_client_cannot_fence_before_that(gateway: Gateway) -> None:
    gateway.lead(OWN, SELF, [])
    assert gateway.fence(b"alpha", claim(4)) == reasons.NOT_ACTIVE


def test_a_venue_that_knows_a_higher_gateway_keeps_it_out(gateway: Gateway) -> None:
    gateway.lead(OWN, SELF, [])
    gateway.venue_fenced(fenced("execd", 1, ok=False, reason="below the fence 1/2"))
    assert (gateway.phase, gateway.refusal) == (Phase.FENCING, "below the fence 1/2")


def test_an_active_one_that_the_venue_refuses_is_active_no_more(gateway: Gateway) -> None:
    active(gateway)
    gateway.venue_fenced(fenced("execd", 1, ok=False, reason="below the fence 1/2"))
    assert gateway.phase is Phase.FENCING
    assert [each.token for each in gateway.outstanding()] == [OWN]


def test_a_clients_fence_that_the_venue_refuses_is_settled_because_its_fence_is_higher(
    gateway: Gateway,
) -> None:
    gateway.lead(OWN, SELF, [claim(4)])
    gateway.venue_fenced(fenced("execd", 1))
    gateway.venue_fenced(fenced("omsd", 4, ok=False, reason="below the fence 1/5"))
    assert gateway.phase is Phase.ACTIVE


def test_a_fence_that_the_venue_cannot_confirm_yet_is_not_settled_and_asked_again(gateway: Gateway) -> None:
    gateway.lead(OWN, SELF, [claim(4)])
    for group, epoch in (("execd", 1), ("omsd", 4)):
        gateway.venue_fenced(
            codec.replace(fenced(group, epoch, ok=False, reason="not confirmed"), waits=True)
        )
    assert (gateway.phase, gateway.refusal) == (Phase.FENCING, "")
    assert [each.token.group for each in gateway.outstanding()] == ["execd", "omsd"]


def test_the_higher_of_disk_and_fence_file_is_fenced(tmp_path: Path) -> None:
    Fences(tmp_path / "fences.json", store_tokens.highest).admit(Token(1, "omsd", 6), BETA)
    gateway = Gateway(Fences(tmp_path / "fences.json", store_tokens.highest))
    assert gateway.lead(OWN, SELF, [claim(5)])
    assert gateway.outstanding()[1] == claim(6, BETA)


def test_a_closed_epoch_keeps_lower_tokens_out_without_a_claim_at_the_venue(gateway: Gateway) -> None:
    assert gateway.lead(OWN, SELF, [claim(5, NOBODY)])
    assert len(gateway.outstanding()) == 1
    gateway.venue_fenced(fenced("execd", 1))
    assert gateway.objection(b"beta", wire(5), leads=True) == reasons.STALE_TOKEN
    assert gateway.fence(b"alpha", claim(5)) != ""
    assert gateway.fence(b"beta", claim(6, BETA)) == ""


# --- fencing clients ----------------------------------------------------------------------------------------


def test_only_the_token_fenced_last_passes(gateway: Gateway) -> None:
    active(gateway)
    assert gateway.objection(b"alpha", wire(4), leads=True) == reasons.STALE_TOKEN, "never fenced"
    fence(gateway, claim(4))
    assert gateway.objection(b"alpha", wire(4), leads=True) == ""
    fence(gateway, claim(5, BETA), b"beta")
    assert gateway.objection(b"alpha", wire(4), leads=True) == reasons.STALE_TOKEN
    assert gateway.objection(b"beta", wire(5), leads=True) == ""
    assert gateway.objection(b"beta", None, leads=True) == reasons.STALE_TOKEN
    assert gateway.objection(b"beta", wire(5), leads=False) == reasons.NOT_ACTIVE


def test_the_old_leader_is_shut_out_before_the_venue_answers(gateway: Gateway) -> None:
    active(gateway)
    fence(gateway, claim(4))
    gateway.fence(b"beta", claim(5, BETA))
    gateway.hold(claim(5, BETA))
    assert gateway.objection(b"alpha", wire(4), leads=True) == reasons.STALE_TOKEN
    assert "omsd" not in gateway.links, "and hears nothing more"


def test_an_equal_token_of_another_process_is_refused(gateway: Gateway) -> None:
    active(gateway)
    fence(gateway, claim(4))
    assert "claimed by omsd-alpha-1" in gateway.fence(b"beta", claim(4, BETA))
    assert gateway.links["omsd"] == b"alpha"


def test_the_same_claim_may_come_again_and_stays_where_it_came_first(gateway: Gateway) -> None:
    active(gateway)
    assert gateway.fence(b"alpha", claim(4)) == ""
    assert gateway.fence(b"stranger", claim(4)) == reasons.WRONG_LINK, "the venue has still to answer"
    fence(gateway, claim(4))
    assert gateway.fence(b"stranger", claim(4)) == reasons.WRONG_LINK
    assert gateway.speaks_for(b"alpha", wire(4)) and not gateway.speaks_for(b"stranger", wire(4))
    fence(gateway, claim(4))
    fence(gateway, claim(5), b"its next process")
    assert gateway.speaks_for(b"its next process", wire(5))


def test_a_fence_that_the_venue_refuses_is_answered_so(gateway: Gateway) -> None:
    active(gateway)
    gateway.fence(b"alpha", claim(4))
    gateway.hold(claim(4))
    assert gateway.venue_fenced(fenced("omsd", 4, ok=False, reason="disk")) == (b"alpha", claim(4))
    assert "omsd" not in gateway.links


@pytest.mark.parametrize(
    ("order_id", "reason"), [("omsd-3-1", ""), ("omsd-4-1", ""), ("omsd-5-1", reasons.STALE_TOKEN)]
)
def test_cancels_of_an_own_or_older_epoch_pass_whatever_the_fence(
    gateway: Gateway, order_id: str, reason: str
) -> None:
    active(gateway)
    fence(gateway, claim(5, BETA), b"beta")
    assert gateway.cancel_objection(b"beta", wire(4), order_id) == reason


def test_who_leads_cancels_what_an_older_incarnation_left_though_its_epochs_were_higher(
    gateway: Gateway,
) -> None:
    """A store that was restored counts epochs from lower ones, under a higher incarnation."""
    active(gateway)
    fence(gateway, claim(2))
    assert gateway.cancel_objection(b"alpha", wire(2), "omsd-900-1000001") == ""
    fence(gateway, claim(3, BETA), b"beta")
    assert gateway.cancel_objection(b"alpha", wire(2), "omsd-900-1000001") == reasons.STALE_TOKEN


def test_a_deposed_leaders_cancels_pass_over_its_own_link_and_a_strangers_over_none(gateway: Gateway) -> None:
    active(gateway)
    fence(gateway, claim(4))
    fence(gateway, claim(5, BETA), b"beta")
    assert gateway.cancel_objection(b"alpha", wire(4), "omsd-4-1") == ""
    for epoch in (4, 5):
        assert gateway.cancel_objection(b"stranger", wire(epoch), "omsd-4-1") == reasons.WRONG_LINK
    assert gateway.cancel_objection(b"stranger", wire(9, "another"), "omsd-4-1") == reasons.WRONG_LINK, (
        "what counts is the order's group, not the one that is quoted"
    )


def test_while_a_group_has_no_link_its_cancels_pass_over_any(gateway: Gateway) -> None:
    gateway.lead(OWN, SELF, [claim(4)])
    assert gateway.cancel_objection(b"alpha", wire(4), "omsd-4-1") == ""


def test_the_links_that_may_still_cancel_are_bounded(gateway: Gateway) -> None:
    active(gateway)
    for epoch in range(1, LINKS_MAX + 3):
        fence(gateway, claim(epoch), f"link {epoch}".encode())
    said = [
        gateway.cancel_objection(f"link {epoch}".encode(), wire(99), "omsd-1-1")
        for epoch in range(1, LINKS_MAX + 3)
    ]
    assert said == [reasons.WRONG_LINK] * 2 + [""] * LINKS_MAX


def test_only_the_link_that_fenced_is_taken_for_the_leader(gateway: Gateway) -> None:
    gateway.lead(OWN, SELF, [claim(4)])
    gateway.venue_fenced(fenced("execd", 1))
    gateway.venue_fenced(fenced("omsd", 4))
    assert gateway.objection(b"alpha", wire(4), leads=True) == reasons.NOT_FENCED, "not over any link yet"
    assert not gateway.foreign(b"alpha", wire(4)), "early, and no attempt"
    fence(gateway, claim(4))
    assert gateway.objection(b"alpha", wire(4), leads=True) == ""
    assert gateway.objection(b"stranger", wire(4), leads=True) == reasons.WRONG_LINK
    assert gateway.foreign(b"stranger", wire(4)) and not gateway.foreign(b"alpha", wire(4))
    assert not gateway.foreign(b"stranger", wire(3)), "that is a stale token"


def test_without_a_token_of_its_own_not_even_a_cancel_can_go(gateway: Gateway) -> None:
    assert gateway.cancel_objection(b"alpha", wire(4), "omsd-4-1") == reasons.NOT_ACTIVE


@given(fences=st.lists(st.tuples(st.integers(1, 4), st.sampled_from([ALPHA, BETA])), max_size=10))
def test_whatever_is_fenced_at_most_one_claimant_passes_and_never_a_lower_token(
    fences: list[tuple[int, Process]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = active(Gateway(Fences(tmp_path_factory.mktemp("g") / "fences.json", store_tokens.highest)))
    highest = 0
    claimants: dict[int, Process] = {}
    links = [each.instance.encode() for each in (ALPHA, BETA)]
    for epoch, claimant in fences:
        one = claim(epoch, claimant)
        if gateway.fence(claimant.instance.encode(), one) == "" and gateway.hold(one) == "":
            gateway.venue_fenced(fenced("omsd", epoch))
            assert epoch >= highest
            highest = epoch
            assert claimants.setdefault(epoch, claimant) == claimant
        passing = [
            (epoch, link)
            for epoch in range(1, 6)
            for link in links
            if gateway.objection(link, wire(epoch), leads=True) == ""
        ]
        assert passing == ([(highest, claimants[highest].instance.encode())] if highest else [])


# --- reports ------------------------------------------------------------------------------------------------


def report(n: int) -> orders.Report:
    return orders.Report(
        *HEAD, 0, 0, f"omsd-4-{n}", f"mm-{n}", "strategy-mm", "spot", "BTCUSDT", Side.BUY, OrderState.WORKING,
        1, 1, 0, 0, 0, "", "", 0
    )  # fmt: skip


class Link:
    def __init__(self) -> None:
        self.got: list[int] = []
        self.takes = 1_000

    def __call__(self, group: str, report: orders.Report) -> bool:
        if group != "omsd" or len(self.got) >= self.takes:
            return False
        self.got.append(report.report_id)
        return True


def test_a_report_is_sent_once_and_kept_until_it_is_acknowledged() -> None:
    reports, link = Reports(kept_max=100), Link()
    for n in range(3):
        reports.add("omsd", report(n))
    reports.pump(link)
    reports.pump(link)
    assert link.got == [1, 2, 3]
    reports.seen("omsd", 2)
    assert len(reports) == 1
    reports.add("omsd", report(4))
    reports.pump(link)
    assert link.got == [1, 2, 3, 4]


def test_a_newly_fenced_order_manager_gets_everything_that_is_not_acknowledged_again() -> None:
    reports, link = Reports(kept_max=100), Link()
    for n in range(4):
        reports.add("omsd", report(n))
    reports.pump(link)
    reports.seen("omsd", 1)
    reports.again("omsd")
    reports.pump(link)
    assert link.got == [1, 2, 3, 4, 2, 3, 4]


def test_a_link_that_is_full_gets_the_rest_later_in_order() -> None:
    reports, link = Reports(kept_max=100), Link()
    link.takes = 2
    for n in range(4):
        reports.add("omsd", report(n))
    reports.pump(link)
    link.takes = 1_000
    reports.pump(link)
    assert link.got == [1, 2, 3, 4]


def test_what_was_not_sent_is_not_acknowledged_whatever_is_said() -> None:
    reports, link = Reports(kept_max=100), Link()
    link.takes = 2
    for n in range(4):
        reports.add("omsd", report(n))
    reports.pump(link)
    reports.seen("omsd", (1 << 64) - 1)
    assert len(reports) == 2
    link.takes = 1_000
    reports.pump(link)
    assert link.got == [1, 2, 3, 4]


def test_a_group_without_a_link_holds_up_no_other() -> None:
    reports, link = Reports(kept_max=100), Link()
    reports.add("omsd-eu", report(1))
    reports.add("omsd", report(2))
    reports.add("omsd-eu", report(3))
    reports.pump(link)
    assert link.got == [2]
    reports.seen("omsd", 3)
    assert len(reports) == 2, "of the other group nothing was acknowledged"


def test_reports_are_bounded_and_what_is_dropped_is_counted() -> None:
    reports, link = Reports(kept_max=3), Link()
    for n in range(5):
        reports.add("omsd", report(n))
    reports.pump(link)
    assert (link.got, len(reports), reports.lost) == ([3, 4, 5], 3, 2)


# --- questions and orphans ----------------------------------------------------------------------------------


def test_an_answer_finds_who_asked_once() -> None:
    questions = Questions()
    first, second = questions.ask(b"alpha", 3), questions.ask(b"beta", 3)
    assert questions.answered(second) == (b"beta", 3)
    assert questions.answered(first) == (b"alpha", 3)
    assert questions.answered(first) is None


def test_orphans_are_cancelled_once_until_somebody_is_heard_again() -> None:
    orphans = Orphans(after_ns=100, now_ns=0)
    assert [orphans.due(now_ns) for now_ns in (0, 99, 100)] == [False, False, True]
    orphans.fired = True
    assert not orphans.due(10_000)
    orphans.heard(10_000)
    assert not orphans.due(10_099)
    assert orphans.due(10_100)
