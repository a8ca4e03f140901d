"""What is said of hft-floord: nothing while it beats, that it is dead, that it hangs."""

from __future__ import annotations

import os
from pathlib import Path

from agents import floor_watch
from controlplane.host import locks


def looks(lock: Path, watch: locks.BeatWatch, count: int) -> list[dict[str, str]]:
    return [floor_watch.look(lock, watch, float(at)) for at in range(count)]


def test_one_that_beats_no_more_hangs_and_one_that_has_let_go_is_dead(tmp_path: Path) -> None:
    lock, path = tmp_path / "floor.lock", tmp_path / locks.FLOORD_BEAT
    locks.beat(path)
    watch = locks.BeatWatch(path)
    with locks.take(lock, "floord"):
        found = looks(lock, watch, 6)
        assert [bool(each["floord.hung"]) for each in found] == [False] * 3 + [True] * 3
        assert f"pid {os.getpid()}" in found[-1]["floord.hung"] and "kill -CONT" in found[-1]["floord.hung"]
        locks.beat(path)
        assert not any(floor_watch.look(lock, watch, 6.0).values()), "it goes on"
    for each in looks(lock, watch, 10):
        assert not each["floord.hung"] and "hftctl up" in each["floord.dead"]


def test_where_there_is_none_nothing_is_said(tmp_path: Path) -> None:
    watch = locks.BeatWatch(tmp_path / locks.FLOORD_BEAT)
    assert not any(any(each.values()) for each in looks(tmp_path / "floor.lock", watch, 10))
