"""The site's secret: made once, by whoever is first, and refused when it is not ours alone."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from controlplane.host import secret


def test_it_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    made = secret.read_or_make(tmp_path)
    assert len(made) == secret.SECRET_BYTES
    assert secret.read_or_make(tmp_path) == made
    assert stat.S_IMODE((tmp_path / secret.NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [secret.NAME]


def test_two_that_make_it_at_once_end_with_the_same(tmp_path: Path) -> None:
    def make(turn: int) -> bytes:
        folder = tmp_path / str(turn // 4)
        folder.mkdir(exist_ok=True)
        return secret.read_or_make(folder)

    for turn in range(20):
        with ThreadPoolExecutor(1) as one:
            first = one.submit(make, turn * 4)
            assert make(turn * 4) == first.result()


def test_another_agreed_one_takes_its_place(tmp_path: Path) -> None:
    secret.read_or_make(tmp_path)
    secret.put(tmp_path, b"s" * 32)
    assert secret.read_or_make(tmp_path) == b"s" * 32


@pytest.mark.parametrize("content", [b"", b"short", b"s" * 33])
def test_a_damaged_one_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / secret.NAME).write_bytes(content)
    (tmp_path / secret.NAME).chmod(0o600)
    with pytest.raises(InvalidInput, match=r"site\.key: found no file of exactly 32 random bytes; take"):
        secret.read_or_make(tmp_path)
    assert (tmp_path / secret.NAME).read_bytes() == content


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret.read_or_make(tmp_path)
    (tmp_path / secret.NAME).chmod(0o644)
    with pytest.raises(InvalidInput, match=r"mode 0644 of uid .*; must be 0600"):
        secret.read_or_make(tmp_path)


def test_a_fifo_in_its_place_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / secret.NAME, 0o600)
    with pytest.raises(InvalidInput, match="found no file"):
        secret.read_or_make(tmp_path)


def test_keys_differ_by_purpose_and_by_secret() -> None:
    keys = {
        secret.derived(one, purpose) for one in (b"a" * 32, b"b" * 32) for purpose in ("pings", "approvals")
    }
    assert len(keys) == 4
    assert secret.derived(b"a" * 32, "pings") == secret.derived(b"a" * 32, "pings")
