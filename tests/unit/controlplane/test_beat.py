"""A process's sign of life, and who watches it."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from controlplane.host import locks


def test_silence_is_counted_from_the_last_beat_and_ends_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / locks.FLOORD_BEAT
    locks.beat(path)
    watch = locks.BeatWatch(path)
    assert [watch.silent_s(at) for at in (100.0, 101.0, 102.0)] == [0.0, 1.0, 2.0]
    locks.beat(path)
    assert watch.silent_s(103.0) == 0.0
    assert watch.silent_s(104.0) == 1.0


def test_time_in_which_the_watcher_stood_still_is_one_look(tmp_path: Path) -> None:
    path = tmp_path / locks.FLOORD_BEAT
    locks.beat(path)
    watch = locks.BeatWatch(path)
    watch.silent_s(100.0)
    assert watch.silent_s(200.0) == locks.BEAT_LATE_S


def test_a_clock_that_is_set_back_beats_too(tmp_path: Path) -> None:
    path = tmp_path / locks.FLOORD_BEAT
    locks.beat(path)
    watch = locks.BeatWatch(path)
    watch.silent_s(100.0)
    os.utime(path, (1.0, 1.0))
    assert watch.silent_s(101.0) == 0.0


def test_who_makes_no_file_is_not_watched_and_a_lost_one_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / locks.FLOORD_BEAT
    watch = locks.BeatWatch(path)
    assert [watch.silent_s(float(at)) for at in range(10)] == [0.0] * 10
    locks.beat(path)
    assert not path.exists(), "its folder is not there yet"
    path.parent.mkdir()
    locks.beat(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_beats_without_a_descriptor(tmp_path: Path) -> None:
    path = tmp_path / locks.FLOORD_BEAT
    locks.beat(path)
    os.utime(path, (1.0, 1.0))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        locks.beat(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert path.stat().st_mtime > 1.0
