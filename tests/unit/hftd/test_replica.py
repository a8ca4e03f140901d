"""Replication's promise: a standby's journal is always the beginning of its leader's, and what it had beyond
that is kept aside.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model import Process, Token
from hftd.engine.orders import replica, term

BOOT = "11111111-2222-3333-4444-555555555555"
ALPHA = Process("omsd-alpha-1", BOOT, 100, 1)
BETA = Process("omsd-beta-1", BOOT, 200, 2)

Log = list[tuple[int, int]]


def ends(log: Log) -> Log:
    return list(dict(log).items())


def follow(leader: Log, standby: Log) -> tuple[Log, Log]:
    """What the protocol makes of a standby's journal: (its journal afterwards, what was set aside)."""
    oldest = leader[0][1] if leader else 1
    _, common = replica.common_point(ends(leader), ends(standby), oldest)
    kept = [record for record in standby if record[1] <= common]
    return kept + [record for record in leader if record[1] > common], [
        record for record in standby if record[1] > common
    ]


@given(data=st.data())
def test_after_any_history_of_take_overs_a_standby_that_attached_equals_its_leader(
    data: st.DataObject,
) -> None:
    logs: list[Log] = [[], []]
    for last_term in range(1, 1 + data.draw(st.integers(1, 6), label="terms")):
        leader = data.draw(st.integers(0, 1), label="leader")
        other = 1 - leader
        logs[leader].append((last_term, replica.first_of_term(logs[leader][-1][1] if logs[leader] else 0)))
        logs[other], _ = follow(logs[leader], logs[other])
        assert logs[other] == logs[leader]
        for _ in range(data.draw(st.integers(0, 4), label="written")):
            logs[leader].append((last_term, logs[leader][-1][1] + 1))
        replicated = data.draw(st.integers(0, len(logs[leader]) - len(logs[other])), label="replicated")
        logs[other] = logs[leader][: len(logs[other]) + replicated]


def test_what_the_old_leader_did_not_replicate_is_set_aside() -> None:
    old = [(1, 1), (1, 2), (1, 3)]
    new = [(1, 1), (1, 2), (2, replica.first_of_term(2))]
    journal, aside = follow(new, old)
    assert journal == new
    assert aside == [(1, 3)]


def test_a_standby_behind_the_oldest_record_of_its_leader_begins_anew() -> None:
    assert replica.common_point([(3, 900)], [(3, 400)], oldest_seq=500) == (0, 0)
    assert replica.common_point([(3, 900)], [(2, 400)], oldest_seq=500) == (0, 0)
    assert replica.common_point([(3, 900)], [(3, 500)], oldest_seq=500) == (3, 500)
    assert replica.common_point([], [(1, 5)], oldest_seq=0) == (0, 0)


def test_a_new_term_never_reuses_a_sequence_that_may_have_been_audited() -> None:
    assert replica.first_of_term(0) == 1_000_000
    assert replica.first_of_term(899_999) == 1_000_000
    assert replica.first_of_term(999_990) == 2_000_000, "its leader may have been past 1,000,000 already"
    assert replica.first_of_term(1_000_000) == 2_000_000


def test_a_term_rises_with_the_incarnation_even_when_the_epoch_falls_and_gives_the_token_back() -> None:
    before, after = Token(1_790_000_000_000, "omsd", 90), Token(1_790_000_000_001, "omsd", 1)
    assert term.of(before) < term.of(after) < 1 << 63
    assert term.token(term.of(before), "omsd") == before


def test_a_stream_has_no_more_than_its_window_in_flight() -> None:
    stream = replica.Stream(after=10, window=3)
    for sequence in (11, 12, 1_000_000):
        stream.send(sequence)
    assert stream.room == 0
    stream.acknowledge(12)
    assert (stream.room, stream.seen) == (2, 12)
    stream.rewind()
    assert (stream.sent, stream.room) == (12, 3)


def test_a_standby_is_electable_within_the_window_however_far_its_records_have_come() -> None:
    """An order that is journaled and sent a moment later does not take the standby off the list."""
    standbys = replica.Standbys(silence_ns=100)
    standby = standbys.attach(b"beta", BETA, after=5, now_ns=0)
    assert standbys.electable(last_seq=6, now_ns=0) == [BETA]
    standby.stream.send(6)
    assert standbys.electable(last_seq=5 + replica.WINDOW, now_ns=0) == [BETA]
    assert standbys.electable(last_seq=6 + replica.WINDOW, now_ns=0) == []
    standbys.seen(b"beta", 6, now_ns=0)
    assert standbys.electable(last_seq=6 + replica.WINDOW, now_ns=0) == [BETA]


def test_a_standby_is_not_electable_before_the_new_term_has_reached_it() -> None:
    standbys = replica.Standbys(silence_ns=100)
    standby = standbys.attach(b"beta", BETA, after=5, now_ns=0)
    first = replica.first_of_term(5)
    assert standbys.electable(first, now_ns=0) == []
    standby.stream.send(first)
    assert standbys.electable(first, now_ns=0) == [BETA]


def test_a_standby_that_sets_its_tail_aside_is_not_electable_until_it_has_said_where_it_ends() -> None:
    standbys = replica.Standbys(silence_ns=100)
    standbys.attach(b"beta", BETA, after=5, now_ns=0, tail=True)
    assert standbys.electable(last_seq=5, now_ns=0) == []
    standbys.seen(b"beta", 5, now_ns=1)
    assert standbys.electable(last_seq=5, now_ns=1) == [BETA]


def test_a_leader_s_later_answer_takes_nothing_that_was_acknowledged_to_it() -> None:
    follower = replica.StandbyTail()
    assert follower.keeps(leader_term=7, common=5) == 5, "a leader that we have not heard yet"
    follower.begin(7, 5)
    follower.taken(6)
    follower.reset()
    assert follower.keeps(leader_term=7, common=5) == 6
    assert follower.keeps(leader_term=8, common=5) == 5, "another leader may lack it"


def test_unaudited_records_are_counted_over_the_holes_between_terms() -> None:
    ends = [(1, 1_000_004), (2, 2_000_001), (3, 3_000_002)]
    assert replica.unaudited(ends, 0) == 5 + 2 + 3
    assert replica.unaudited(ends, 1_000_002) == 2 + 2 + 3
    assert replica.unaudited(ends, 2_000_001) == 3
    assert replica.unaudited(ends, 3_000_002) == 0 == replica.unaudited([], 0)


def test_a_silent_standby_is_not_electable_until_it_is_heard() -> None:
    standbys = replica.Standbys(silence_ns=100)
    standbys.attach(b"beta", BETA, after=5, now_ns=0)
    assert standbys.electable(5, now_ns=101) == []
    standbys.seen(b"beta", 5, now_ns=101)
    assert standbys.electable(5, now_ns=150) == [BETA]


def test_a_restarted_standby_takes_the_place_of_its_dead_process() -> None:
    standbys = replica.Standbys(silence_ns=100)
    standbys.attach(b"beta.200", BETA, after=5, now_ns=0)
    again = Process(BETA.instance, BOOT, 201, 3)
    standbys.attach(b"beta.201", again, after=5, now_ns=1)
    assert standbys.electable(5, now_ns=2) == [again]


def test_a_follower_appends_only_behind_the_record_before() -> None:
    follower = replica.StandbyTail()
    assert follower.takes(5, 6, last_seq=5) is None, "not attached"
    follower.begin(7, 5)
    assert follower.takes(5, 6, last_seq=5) is True
    assert follower.takes(5, 6, last_seq=6) is False
    assert follower.takes(7, 8, last_seq=6) is None
    assert follower.takes(6, 1_000_000, last_seq=6) is True


def test_a_follower_does_not_listen_to_a_leader_below_what_it_knows() -> None:
    follower = replica.StandbyTail()
    assert follower.stale(leader_term=3, last_term=4)
    follower.begin(5, 5)
    assert follower.stale(leader_term=4, last_term=4)
    assert not follower.stale(leader_term=5, last_term=4)
