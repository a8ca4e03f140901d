"""When a stream is called silent: not while it is held back, nor for time in which nobody listened."""

from __future__ import annotations

from hftd.engine.market.silence import LOOK_NS, SILENT_NS, Silence

SILENT_LOOKS = SILENT_NS // LOOK_NS


def looks(silence: Silence, count: int, *, begin: int = 0, listening: bool = True) -> list[bool]:
    return [silence.look((begin + n) * LOOK_NS, listening=listening) for n in range(1, count + 1)]


def test_it_is_silent_after_its_bound_and_not_with_the_next_frame() -> None:
    silence = Silence()
    assert looks(silence, SILENT_LOOKS) == [False] * (SILENT_LOOKS - 1) + [True]
    silence.heard()
    assert looks(silence, 2, begin=SILENT_LOOKS) == [False, False]


def test_a_beat_a_second_is_enough_for_ever() -> None:
    silence = Silence()
    for second in range(1, 3600):
        assert not silence.look(second * LOOK_NS, listening=True)
        silence.heard()


def test_what_is_held_back_is_not_silent_and_counts_anew_when_it_is_let_go() -> None:
    silence = Silence()
    looks(silence, SILENT_LOOKS - 1)
    assert not any(looks(silence, 100, begin=10, listening=False))
    assert looks(silence, SILENT_LOOKS, begin=110)[-2:] == [False, True]


def test_time_in_which_the_reader_itself_stood_still_is_one_look() -> None:
    silence = Silence()
    assert not silence.look(LOOK_NS, listening=True)
    assert not silence.look(60 * LOOK_NS, listening=True)
