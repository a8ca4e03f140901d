"""What state an instance is in, and the one table of legal moves. Pure.

The supervisor reports what happened (`Move`); the table says what the instance is now. A move that is not in
the table is a mistake in the caller and raises, so that no instance is started twice or forgotten. Desired
state is kept apart (supervisor.py): a daemon that an operator stopped is `stopped`, not `backoff`, whatever
its exit looked like.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    """A process runs and has not said hello yet."""
    RUNNING = "running"
    STOPPING = "stopping"
    """Asked to stop; its shim kills it after the grace."""
    BACKOFF = "backoff"
    """It died; the next start waits for its time."""


class Move(StrEnum):
    START = "start"
    HELLO = "hello"
    STOP = "stop"
    EXIT = "exit"
    ADOPT = "adopt"
    """A process of an earlier agent was found running."""


class IllegalMove(AssertionError):
    """The supervisor's own mistake, never an operator's."""


MOVES: dict[tuple[State, Move], State] = {
    (State.STOPPED, Move.START): State.STARTING,
    (State.STOPPED, Move.ADOPT): State.STARTING,
    (State.STOPPED, Move.STOP): State.STOPPED,
    (State.STARTING, Move.HELLO): State.RUNNING,
    (State.STARTING, Move.STOP): State.STOPPING,
    (State.STARTING, Move.EXIT): State.BACKOFF,
    (State.RUNNING, Move.HELLO): State.RUNNING,  # repeated when the agent is new
    (State.RUNNING, Move.STOP): State.STOPPING,
    (State.RUNNING, Move.EXIT): State.BACKOFF,
    (State.STOPPING, Move.HELLO): State.STOPPING,  # it was on its way when we asked
    (State.STOPPING, Move.STOP): State.STOPPING,
    (State.STOPPING, Move.EXIT): State.STOPPED,
    (State.BACKOFF, Move.START): State.STARTING,
    (State.BACKOFF, Move.STOP): State.STOPPED,
}

HAS_PROCESS = frozenset({State.STARTING, State.RUNNING, State.STOPPING})


class Step(StrEnum):
    """What is to be done for an instance now."""

    START = "start"
    STOP = "stop"
    WAIT = "wait"
    FORGET = "forget"
    """It is stopped, and no spec wants it."""


def decide(state: State, *, wanted: bool, same: bool, released: bool, due: bool) -> Step:
    """The next step of one instance.

    `wanted`: its slot is in the specs. `same`: what runs is what the spec says. `released`: a restart for a
    changed spec may happen now (a leader waits until its standbys have had theirs). `due`: the backoff is
    over.
    """
    if state is State.STOPPING:
        return Step.WAIT
    if state in HAS_PROCESS:
        return Step.STOP if not wanted or (not same and released) else Step.WAIT
    if not wanted:
        return Step.FORGET
    return Step.START if state is State.STOPPED or due else Step.WAIT


def after(state: State, move: Move) -> State:
    """The state that `move` leads to. Raises IllegalMove."""
    try:
        return MOVES[state, move]
    except KeyError:
        raise IllegalMove(f"an instance that is {state} cannot {move}") from None
