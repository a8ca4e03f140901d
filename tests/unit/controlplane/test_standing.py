"""A trouble that stands is said when it begins, when it changes, now and then, and when it is over."""

from __future__ import annotations

from controlplane.host import standing


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now_s = 1000.0
        self.troubles = standing.Troubles(self.lines.append, lambda: self.now_s)


def test_of_a_thousand_tries_with_one_error_there_are_two_lines() -> None:
    said = Said()
    for _ in range(1000):
        said.troubles.stands("floor.json", "cannot be written: full")
        said.now_s += 0.2
    said.troubles.over("floor.json")
    said.troubles.over("floor.json")
    assert said.lines == ["floor.json: cannot be written: full", "floor.json: over, after 200.0 s"]


def test_one_that_stands_for_long_is_said_again_with_how_long_and_how_often() -> None:
    said = Said()
    for _ in range(int(standing.SAY_AGAIN_S) + 1):
        said.troubles.stands("a", "b")
        said.now_s += 1
    assert said.lines == ["a: b", f"a: b (stands for {standing.SAY_AGAIN_S:.0f} s, 601 times)"]


def test_another_text_is_said_but_not_with_each_try() -> None:
    said = Said()
    for number in range(100):
        said.troubles.stands("a", f"pid {number}")
        said.now_s += 1
    assert said.lines[:2] == ["a: pid 0", "a: pid 10 (stands for 10 s, 11 times)"] and len(said.lines) == 10


def test_each_subject_stands_for_itself_and_one_that_is_forgotten_begins_anew() -> None:
    said = Said()
    said.troubles.stands("a", "x")
    said.troubles.stands("b", "x")
    said.troubles.forget("a")
    said.troubles.stands("a", "x")
    assert said.lines == ["a: x", "b: x", "a: x"] and "a" in said.troubles and "c" not in said.troubles
