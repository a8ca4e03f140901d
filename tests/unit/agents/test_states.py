"""The moves of an instance, and what is decided for it."""

from __future__ import annotations

import itertools

import pytest

from agents.supervisor.states import HAS_PROCESS, MOVES, IllegalMove, Move, State, Step, after, decide

EVERY = list(itertools.product(State, [False, True], [False, True], [False, True], [False, True]))


def test_whatever_is_not_in_the_table_raises() -> None:
    for state, move in itertools.product(State, Move):
        if (state, move) not in MOVES:
            with pytest.raises(IllegalMove):
                after(state, move)


def test_a_process_is_only_started_where_there_is_none() -> None:
    assert {state for state, move in MOVES if move is Move.START} == set(State) - HAS_PROCESS


def test_what_was_asked_to_stop_ends_as_stopped_and_what_died_by_itself_in_backoff() -> None:
    assert after(State.STOPPING, Move.EXIT) is State.STOPPED
    assert {after(state, Move.EXIT) for state in (State.STARTING, State.RUNNING)} == {State.BACKOFF}


@pytest.mark.parametrize(("state", "wanted", "same", "released", "due"), EVERY)
def test_every_decision_is_a_legal_move(
    state: State, wanted: bool, same: bool, released: bool, due: bool
) -> None:
    match decide(state, wanted=wanted, same=same, released=released, due=due):
        case Step.START:
            assert wanted
            assert after(state, Move.START) is State.STARTING
        case Step.STOP:
            assert not wanted or (not same and released)
            assert after(state, Move.STOP) is State.STOPPING
        case Step.FORGET:
            assert not wanted
            assert state not in HAS_PROCESS
        case Step.WAIT:
            assert not (wanted and state is State.STOPPED)


def test_a_leader_that_is_not_released_keeps_running_its_old_spec() -> None:
    assert decide(State.RUNNING, wanted=True, same=False, released=False, due=True) is Step.WAIT


def test_backoff_waits_for_its_time() -> None:
    assert decide(State.BACKOFF, wanted=True, same=True, released=True, due=False) is Step.WAIT
    assert decide(State.BACKOFF, wanted=True, same=True, released=True, due=True) is Step.START
