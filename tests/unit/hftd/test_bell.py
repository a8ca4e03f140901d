"""The bell beside the lease word: what it wakes, and that nothing waits for it."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from hftd.shm import bell


def rings(listening: bell.Bell) -> bool:
    return bool(select.select([listening], [], [], 0)[0])


def test_a_ring_is_heard_once(tmp_path: Path) -> None:
    listening = bell.Bell(tmp_path / "a.lease")
    assert not rings(listening)
    bell.ring(tmp_path / "a.lease")
    bell.ring(tmp_path / "a.lease")
    assert rings(listening)
    listening.drain()
    assert not rings(listening)
    listening.close()


def test_a_new_process_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    old = bell.Bell(tmp_path / "a.lease")
    new = bell.Bell(tmp_path / "a.lease")
    bell.ring(tmp_path / "a.lease")
    assert (rings(old), rings(new)) == (False, True)
    old.close()
    new.close()


def test_ringing_waits_for_nobody(tmp_path: Path) -> None:
    bell.ring(tmp_path / "nobody.lease")
    listening = bell.Bell(tmp_path / "deaf.lease")
    for _ in range(10_000):  # far more than a socket holds
        bell.ring(tmp_path / "deaf.lease")
    listening.drain()
    assert not rings(listening)
    listening.close()


def test_a_path_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"bell .*xxx.*107"):
        bell.Bell(tmp_path / ("x" * 120))
