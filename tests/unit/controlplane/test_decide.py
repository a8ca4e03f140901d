"""What a keeper decides, rule by rule; a view and a moment in, actions out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.leadership import budget, decide
from controlplane.leadership.decide import (
    Campaign,
    Claim,
    Close,
    Disarm,
    HandOver,
    RecordActive,
    Renew,
    Settle,
    StandDown,
    WriteElectable,
)
from controlplane.leadership.group_view import Cause, Group, GroupView, Lead
from controlplane.model import Process, records

ALPHA = Process("omsd-alpha-1", "boot", 10, 100)
ALPHA_AGAIN = Process("omsd-alpha-1", "boot", 11, 200)
BETA = Process("omsd-beta-1", "boot", 20, 100)
GAMMA = Process("omsd-gamma-1", "boot", 30, 100)
BUDGET = budget.DEFAULT
LEASE_NS = BUDGET.lease_ns
INC = 1_000

EMPTY = Group("omsd", revision=5, incarnation=INC, incarnation_revision=2)
LED = replace(
    EMPTY,
    leader=records.LeaderRecord(ALPHA, INC, 3, ALPHA.instance, "n"),
    leader_revision=5,
    epoch=records.EpochRecord(INC, 3),
    epoch_revision=4,
    electable=records.ElectableRecord((BETA, GAMMA), 3),
    electable_revision=3,
)
RELEASED = replace(LED, leader=records.LeaderRecord(None, INC, 3, ALPHA.instance, "n"))
REQUEST = records.RequestRecord("op-1", "failover", None, 3, "pending", "ops", "drill", 1)
LEAD = Lead(ALPHA, INC, 3)


def alpha(group: Group | None = LED, **changed: object) -> GroupView:
    """alpha's keeper, leading, everything in order, the next renewal due at 1000."""
    return replace(
        GroupView(
            group, ALPHA, BUDGET, runs=True, lead=LEAD, renew_ns=1000, successors=frozenset({BETA, GAMMA})
        ),
        **changed,
    )  # type: ignore[arg-type]


def beta(group: Group | None = LED, **changed: object) -> GroupView:
    """beta's keeper, standing by; it saw the leader record change at 0."""
    return replace(GroupView(group, BETA, BUDGET, runs=True), **changed)  # type: ignore[arg-type]


def led_for(lease_ms: int) -> Group:
    """LED, by a leader that keeps time with this lease."""
    assert LED.leader is not None
    return replace(LED, leader=replace(LED.leader, lease_ms=lease_ms))


def action(view: GroupView, now_ns: int = 0) -> decide.Action | None:
    found = decide.decide(view, now_ns).actions
    assert len(found) <= 1
    return found[0] if found else None


def closed(cause: Cause = Cause.PROCESS_LOST, **changed: object) -> Lead:
    return replace(LEAD, closed=cause, **changed)  # type: ignore[arg-type]


# --- standing by --------------------------------------------------------------------------------------------


def test_nothing_is_done_before_the_store_was_seen() -> None:
    assert action(beta(None), now_ns=10 * LEASE_NS) is None


@pytest.mark.parametrize("now_ns", [0, 1, LEASE_NS // 2, LEASE_NS - 1])
def test_no_take_before_a_whole_lease_from_the_first_look(now_ns: int) -> None:
    """R4: the keeper may have started a moment ago, and the record may be a renewal of just now."""
    assert action(beta(changed_ns=1000), now_ns + 1000) is None


def test_an_electable_standby_campaigns_when_the_record_stood_still_for_a_lease() -> None:
    assert action(beta(changed_ns=1000), LEASE_NS + 1000) == Campaign(Cause.LEASE_EXPIRED)


def test_a_standby_that_is_not_electable_never_campaigns_for_an_expired_lease() -> None:
    assert action(beta(replace(LED, electable=records.ElectableRecord((GAMMA,), 3))), 10 * LEASE_NS) is None


def test_electable_means_this_very_process() -> None:
    """R2: its restarted successor has another journal position until the leader says otherwise."""
    again = replace(BETA, pid=21, start_time=300)
    assert action(beta(me=again), 10 * LEASE_NS) is None


def test_holder_none_is_campaigned_for_at_once() -> None:
    assert action(beta(RELEASED)) == Campaign(Cause.RELEASED)


def test_the_very_first_take_is_open_to_any_ready_member() -> None:
    assert action(beta(EMPTY)) == Campaign(Cause.FIRST)
    assert action(beta(EMPTY, ready=False)) is None


def test_a_deleted_leader_record_is_waited_out_like_a_lost_host() -> None:
    deleted = replace(LED, leader=None, leader_revision=0)
    assert action(beta(deleted), LEASE_NS - 1) is None
    assert action(beta(deleted), LEASE_NS) == Campaign(Cause.LEASE_EXPIRED)


@pytest.mark.parametrize(
    "unfit", [{"runs": False}, {"fresh": False}, {"ready": False}, {"leaving": True}, {"free": False}]
)
def test_an_unfit_standby_does_not_campaign(unfit: dict[str, bool]) -> None:
    assert action(beta(RELEASED, **unfit)) is None


def test_paused_means_no_automatic_take() -> None:
    assert action(beta(replace(RELEASED, paused=True))) is None


def test_without_an_incarnation_nobody_takes() -> None:
    assert action(beta(replace(EMPTY, incarnation=None))) is None


def test_the_home_may_lead_again_when_nobody_is_electable() -> None:
    """R14, the group with one member."""
    alone = replace(RELEASED, electable=None, electable_revision=0)
    assert action(alpha(alone, lead=None, me=ALPHA_AGAIN)) == Campaign(Cause.RELEASED)
    assert action(alpha(alone, lead=None, me=ALPHA_AGAIN, home_ok=False)) is None


def test_the_home_lets_an_electable_standby_that_is_passing_go_first_for_a_lease() -> None:
    view = alpha(RELEASED, lead=None, me=ALPHA_AGAIN)
    assert action(view, LEASE_NS - 1) is None
    assert action(view, LEASE_NS) == Campaign(Cause.RELEASED)


def test_the_home_waits_only_five_pings_for_electable_standbys_of_which_none_is_passing() -> None:
    """Not at once: a keeper that has just started has asked nobody. After five pings: as after a whole floor
    was down, when the list still names the processes of before.
    """
    view = alpha(RELEASED, lead=None, me=ALPHA_AGAIN, successors=frozenset(), changed_ns=5)
    assert action(view, decide.HOME_WAIT_NS + 4) is None
    assert action(view, decide.HOME_WAIT_NS + 5) == Campaign(Cause.RELEASED)


def test_a_member_that_was_moved_takes_after_a_whole_lease_when_home_is_no_instance_any_more() -> None:
    """The service has one member and its spec moved it to another host: R14's home never comes back."""
    moved = replace(RELEASED, electable=None, electable_revision=0)
    slots = frozenset({BETA.instance})
    assert action(beta(moved, slots=slots, changed_ns=5), LEASE_NS + 4) is None
    assert action(beta(moved, slots=slots, changed_ns=5), LEASE_NS + 5) == Campaign(Cause.RELEASED)
    assert action(beta(moved, slots=slots, ready=False), LEASE_NS) is None


def test_a_holder_that_was_moved_away_is_followed_only_when_its_lease_has_run_out() -> None:
    """Its host may be cut off and renew still: R4 holds for the moved as for anybody."""
    moved = replace(LED, electable=None, electable_revision=0)
    slots = frozenset({BETA.instance})
    assert action(beta(moved, slots=slots, changed_ns=5), LEASE_NS + 4) is None
    assert action(beta(moved, slots=slots, changed_ns=5), LEASE_NS + 5) == Campaign(Cause.LEASE_EXPIRED)


@pytest.mark.parametrize("slots", [frozenset(), frozenset({ALPHA.instance, BETA.instance})])
def test_nobody_but_the_home_takes_while_it_is_an_instance_or_the_spec_is_not_known(
    slots: frozenset[str],
) -> None:
    alone = replace(RELEASED, electable=None, electable_revision=0)
    assert action(beta(alone, slots=slots), 10 * LEASE_NS) is None
    assert action(beta(replace(LED, electable=None), slots=slots), 10 * LEASE_NS) is None


def test_a_renewal_is_no_news() -> None:
    """One sentence for as long as the same process leads with the same standbys behind it."""
    said = {
        decide.decide(alpha(renew_ns=due, active=active), 500).sentence
        for due in (0, 1000)
        for active in (True, False)
    }
    assert said == {"leads epoch 3; electable is omsd-beta-1, omsd-gamma-1"}
    assert decide.decide(alpha(electable=(BETA,)), 500).sentence == "leads epoch 3; electable is omsd-beta-1"
    assert (
        decide.decide(alpha(replace(LED, electable=records.ElectableRecord((BETA,), 2))), 500).sentence
        == "leads epoch 3"
    )


def test_a_store_that_went_back_gets_no_promotion_and_no_renewal() -> None:
    """R19: below this keeper's own disk."""
    decision = decide.decide(beta(RELEASED, seen=(INC, 4)), 0)
    assert decision.actions == () and "went back" in decision.sentence
    assert action(alpha(seen=(INC, 4)), 10_000) is None
    assert action(beta(replace(RELEASED, incarnation=INC + 1), seen=(INC, 4))) == Campaign(Cause.RELEASED)


# --- named, restarted ---------------------------------------------------------------------------------------


def test_a_named_successor_claims_by_a_renewal_of_its_own() -> None:
    """R6."""
    named = replace(
        LED, leader=records.LeaderRecord(BETA, INC, 4, BETA.instance, "n"), epoch=records.EpochRecord(INC, 4)
    )
    assert action(beta(named)) == Claim()
    assert action(beta(named, fresh=False)) is None


def test_a_restarted_keeper_claims_for_the_process_that_goes_on() -> None:
    assert action(alpha(lead=None)) == Claim()


def test_a_closing_in_the_word_survives_the_keeper() -> None:
    """R7: the restarted keeper hands over; it does not reopen the epoch."""
    found = action(alpha(lead=None, word_closed=LEAD.rank))
    assert isinstance(found, Close) and found.lead.closed and found.lead.rank == LEAD.rank
    assert action(alpha(lead=None, word_closed=(INC, 2))) == Claim()


def test_a_named_process_that_is_dead_is_closed_and_handed_over() -> None:
    found = action(alpha(lead=None, runs=False))
    assert isinstance(found, Close) and found.lead == closed()


def test_the_process_before_this_one_is_closed_only_when_it_is_dead() -> None:
    assert action(alpha(lead=None, me=ALPHA_AGAIN, holder_runs=True)) is None
    found = action(alpha(lead=None, me=ALPHA_AGAIN, holder_runs=False))
    assert isinstance(found, Close) and found.lead.process == ALPHA


# --- leading ------------------------------------------------------------------------------------------------


def test_a_leader_renews_when_due_and_only_then() -> None:
    assert action(alpha(), 999) is None
    assert action(alpha(), 1000) == Renew()


def test_a_stale_heartbeat_is_not_renewed() -> None:
    assert action(alpha(fresh=False), 10_000) is None


def test_a_leader_is_renewed_while_paused() -> None:
    assert action(alpha(replace(LED, paused=True)), 1000) == Renew()


def test_a_death_closes_even_while_a_renewal_is_in_flight() -> None:
    """R7: its answer will write nothing."""
    found = action(alpha(runs=False, free=False), 7)
    assert isinstance(found, Close) and found.lead.closed is Cause.PROCESS_LOST and not found.kill


def test_a_new_process_of_the_instance_closes_the_old_ones_epoch() -> None:
    found = action(alpha(me=ALPHA_AGAIN))
    assert isinstance(found, Close) and found.lead.process == ALPHA


@pytest.mark.parametrize(
    "record",
    [
        records.LeaderRecord(BETA, INC, 4, BETA.instance, "n"),
        records.LeaderRecord(ALPHA, INC, 4, ALPHA.instance, "n"),
        records.LeaderRecord(None, INC, 3, ALPHA.instance, "n"),
        None,
    ],
)
def test_a_leader_stands_down_when_the_record_is_another(record: records.LeaderRecord | None) -> None:
    assert action(alpha(replace(LED, leader=record))) == StandDown()
    assert action(alpha(replace(LED, leader=record), lead=closed())) == StandDown()


def test_the_daemons_list_of_standbys_is_committed_before_a_renewal() -> None:
    assert action(alpha(electable=(BETA,)), 10_000) == WriteElectable((BETA,))


def test_the_history_is_completed_when_the_daemon_is_active() -> None:
    row = records.HistoryRow(3, None, ALPHA.instance, "first", "system", "", None, 1, 1)
    assert action(alpha(replace(LED, row=row), active=True)) == RecordActive()
    assert action(alpha(replace(LED, row=row), active=False)) is None
    assert action(alpha(replace(LED, row=replace(row, active_ns=2)), active=True)) is None


# --- handing over -------------------------------------------------------------------------------------------


def test_the_successor_is_electable_and_passing() -> None:
    assert action(alpha(lead=closed(), runs=False)) == HandOver(BETA, Cause.PROCESS_LOST)
    assert action(alpha(lead=closed(), runs=False, successors=frozenset({GAMMA}))) == HandOver(
        GAMMA, Cause.PROCESS_LOST
    )


def test_nobody_is_named_when_no_standby_answers() -> None:
    assert action(alpha(lead=closed(), runs=False, successors=frozenset())) == HandOver(
        None, Cause.PROCESS_LOST
    )


def test_nobody_is_named_that_only_answers_and_is_not_electable() -> None:
    group = replace(LED, electable=records.ElectableRecord((GAMMA,), 3))
    assert action(alpha(group, lead=closed(), runs=False, successors=frozenset({BETA}))) == HandOver(
        None, Cause.PROCESS_LOST
    )


def test_a_closed_epoch_is_never_renewed() -> None:
    """R7: not even when the process lives and a renewal is long due; it may lead again only by a take with
    the next epoch.
    """
    for cause in (Cause.PROCESS_LOST, Cause.FAILOVER, Cause.RELEASED):
        assert not isinstance(action(alpha(lead=closed(cause)), 10**12), Renew)
    alone = replace(LED, electable=None)
    assert action(alpha(alone, lead=closed())) == HandOver(ALPHA, Cause.PROCESS_LOST)


def test_the_home_is_named_with_its_new_process_when_nobody_is_electable() -> None:
    alone = replace(LED, electable=None)
    assert action(alpha(alone, lead=closed(), me=ALPHA_AGAIN)) == HandOver(ALPHA_AGAIN, Cause.PROCESS_LOST)
    assert action(alpha(alone, lead=closed(), me=ALPHA_AGAIN, ready=False)) == HandOver(
        None, Cause.PROCESS_LOST
    )


def test_one_transaction_at_a_time() -> None:
    assert action(alpha(lead=closed(), runs=False, free=False)) is None
    assert action(alpha(free=False), 10_000) is None


def test_paused_a_closed_epoch_stays_closed() -> None:
    assert action(alpha(replace(LED, paused=True), lead=closed(), runs=False)) is None


def test_a_stopping_keeper_releases_what_it_leads() -> None:
    found = action(alpha(stopping=True, leaving=True))
    assert isinstance(found, Close) and found.lead.closed is Cause.RELEASED and not found.kill
    assert action(alpha(stopping=True, leaving=True, lead=found.lead)) == HandOver(None, Cause.RELEASED)


def test_on_a_host_that_goes_down_a_death_gives_the_lead_back_and_a_life_goes_on_leading() -> None:
    """Its daemons are asked to end in order: while one lives it leads, for it may still have to cancel."""
    assert action(alpha(leaving=True), 1000) == Renew()
    found = action(alpha(leaving=True, runs=False))
    assert isinstance(found, Close) and (found.lead.closed, found.kill) == (Cause.RELEASED, False)
    assert action(alpha(leaving=True, runs=False, lead=found.lead)) == HandOver(None, Cause.RELEASED)
    named = action(alpha(leaving=True, runs=False, lead=None))
    assert isinstance(named, Close) and named.lead.closed is Cause.RELEASED


def test_the_lead_of_a_process_that_its_agent_stops_goes_on_and_is_called_stopped() -> None:
    assert action(alpha(ending=True), 1000) == Renew()
    found = action(alpha(ending=True, runs=False))
    assert isinstance(found, Close) and (found.lead.closed, found.kill) == (Cause.STOPPED, False)
    assert action(alpha(ending=True, runs=False, lead=found.lead)) == HandOver(BETA, Cause.STOPPED)
    assert action(alpha(ending=True, runs=False, lead=found.lead, successors=frozenset())) == HandOver(
        None, Cause.STOPPED
    )


# --- requests -----------------------------------------------------------------------------------------------


def test_a_failover_closes_kills_and_then_hands_over() -> None:
    asked = replace(LED, request=REQUEST)
    found = action(alpha(asked), 50)
    assert isinstance(found, Close) and found.kill and found.lead.closed is Cause.FAILOVER
    assert action(alpha(asked, lead=found.lead), 50) is None  # waits for the death
    assert action(alpha(asked, lead=found.lead, runs=False), 51) == HandOver(BETA, Cause.FAILOVER)


def test_a_killed_process_that_does_not_die_is_handed_over_all_the_same() -> None:
    lead = closed(Cause.FAILOVER, killed=True, closed_ns=0)
    assert action(alpha(replace(LED, request=REQUEST), lead=lead), decide.KILL_WAIT_NS) == HandOver(
        BETA, Cause.FAILOVER
    )


def test_a_killed_process_is_never_named_itself() -> None:
    lead = closed(Cause.FAILOVER, killed=True, closed_ns=0)
    assert action(alpha(replace(LED, electable=None), lead=lead), decide.KILL_WAIT_NS) == HandOver(
        None, Cause.FAILOVER
    )


def test_a_failover_goes_where_it_was_asked_to() -> None:
    asked = replace(LED, request=replace(REQUEST, to=GAMMA.instance))
    assert action(alpha(asked, lead=closed(Cause.FAILOVER), runs=False)) == HandOver(GAMMA, Cause.FAILOVER)


def test_a_killed_leader_is_replaced_by_anyone_when_the_wished_one_has_gone() -> None:
    asked = replace(LED, request=replace(REQUEST, to=GAMMA.instance))
    assert action(
        alpha(asked, lead=closed(Cause.FAILOVER), runs=False, successors=frozenset({BETA}))
    ) == HandOver(BETA, Cause.FAILOVER)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"to": "omsd-delta-1"}, "omsd-delta-1 is not electable"),
        ({"to": ALPHA.instance}, "leads already"),
        ({"epoch": 2}, "made for epoch 2, the group is at epoch 3"),
        ({"kind": "upgrade"}, "kind 'upgrade'"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_refused_and_the_leader_left_alone(
    changed: dict[str, object], why: str
) -> None:
    found = action(alpha(replace(LED, request=replace(REQUEST, **changed))))  # type: ignore[arg-type]
    assert isinstance(found, Settle) and found.state == "refused" and why in found.outcome


def test_no_electable_standby_refuses_at_once() -> None:
    found = action(alpha(replace(LED, request=REQUEST, electable=None)))
    assert found == Settle("refused", "no standby is electable")


def test_electable_but_silent_standbys_are_given_a_second() -> None:
    view = alpha(replace(LED, request=REQUEST), successors=frozenset(), request_ns=0, renew_ns=10**12)
    assert action(view, decide.REQUEST_PATIENCE_NS - 1) is None
    found = action(view, decide.REQUEST_PATIENCE_NS)
    assert isinstance(found, Settle) and "answers that it is passing" in found.outcome


@pytest.mark.parametrize("state", ["succeeded", "cancelled", "refused", "failed"])
def test_only_a_pending_request_is_acted_on(state: str) -> None:
    """R15."""
    assert action(alpha(replace(LED, request=replace(REQUEST, state=state))), 10) is None


def test_a_pause_does_not_stop_an_operators_failover() -> None:
    asked = replace(LED, request=REQUEST, paused=True)
    assert action(alpha(asked, lead=closed(Cause.FAILOVER), runs=False)) == HandOver(BETA, Cause.FAILOVER)


def test_every_take_settles_a_request_by_what_it_did() -> None:
    assert decide.settled(REQUEST, ALPHA.instance, BETA).state == "succeeded"
    assert decide.settled(replace(REQUEST, to=GAMMA.instance), ALPHA.instance, BETA).state == "failed"
    assert decide.settled(REQUEST, ALPHA.instance, ALPHA_AGAIN).state == "failed"
    assert decide.settled(REQUEST, ALPHA.instance, None).state == "failed"


def test_a_word_that_an_earlier_keeper_left_armed_is_ended_once_another_leads() -> None:
    """A keeper that starts anew knows of no lead; its daemon would fence for the old epoch for ever."""
    led_by_beta = replace(
        LED, leader=replace(RELEASED.leader, holder=BETA), epoch=records.EpochRecord(INC, 4)
    )  # type: ignore[type-var]
    for group in (led_by_beta, RELEASED):
        view = alpha(group, lead=None, word_armed=(INC, 3))
        assert action(view) == Disarm(Lead(ALPHA, INC, 3))
        assert not isinstance(action(replace(view, word_armed=None)), Disarm)
    assert action(alpha(LED, lead=None, word_armed=(INC, 3))) == Claim(), "it is named: a renewal says more"
    newer = alpha(led_by_beta, lead=None, word_armed=(INC, 5))
    assert not isinstance(action(newer), Disarm), "this keeper's view is older than the word"


# --- hosts with different profiles --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lease_ms", "waits_ns"),
    [
        (0, LEASE_NS),
        (600, LEASE_NS),
        (2_500, 2_500_000_000),
        (30_000, 30_000_000_000),
        (299, LEASE_NS),
        (30_001, LEASE_NS),
        (1 << 62, LEASE_NS),
    ],
)
def test_a_follower_waits_for_the_longer_of_its_lease_and_the_record_s(lease_ms: int, waits_ns: int) -> None:
    """R1 with two profiles on one site. A lease that no profile has is not believed."""
    view = beta(led_for(lease_ms), changed_ns=7)
    assert action(view, waits_ns + 6) is None
    assert action(view, waits_ns + 7) == Campaign(Cause.LEASE_EXPIRED)
