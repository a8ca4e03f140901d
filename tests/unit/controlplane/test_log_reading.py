"""Following a log over its rotations: every line once, in order, however it is renamed meanwhile."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.host import log_reading
from controlplane.host.log_file import LogFile


def read_all(path: Path, place: log_reading.Place) -> tuple[bytes, log_reading.Place]:
    found = b""
    while (part := log_reading.after(path, place)).content:
        found, place = found + part.content, part.next
    return found, part.next


@given(st.lists(st.integers(0, 12), max_size=40))
def test_a_follower_gets_every_line_once_over_any_rotations_between_two_looks(bursts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.log"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        file, written, followed = LogFile(fd, bytes_max=40, files_max=20), b"", b""
        place = log_reading.last(path, 0).next
        for burst in bursts:
            for _ in range(burst):
                line = b"%d\n" % len(written)
                assert file.write(line)
                written += line
            more, place = read_all(path, place)
            followed += more
        os.close(fd)
        assert followed == written


@pytest.mark.parametrize("name", ["a.log.1", "a.log-20261129", "a.log.old"])
def test_the_rest_of_a_renamed_file_comes_before_the_new_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"1\n2\n")
    place = log_reading.last(path, 1).next
    with path.open("ab") as file:
        file.write(b"3\n")
    path.rename(tmp_path / name)
    path.write_bytes(b"4\n5\n6\n7\n")
    found, place = read_all(path, place)
    assert found == b"3\n4\n5\n6\n7\n" and read_all(path, place)[0] == b""


def test_a_log_that_was_removed_or_cut_in_place_is_told_from_its_new_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"1\n2\n3\n")
    place = log_reading.last(path, 1).next
    os.truncate(path, 0)
    with path.open("ab") as file:
        file.write(b"4\n")
    found, place = read_all(path, place)
    assert found == b"4\n"
    path.rename(tmp_path / "elsewhere")
    path.write_bytes(b"5\n")
    assert read_all(path, place)[0] == b"5\n"


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1-2-3", "²", "9" * 30, "1 2"])
def test_what_is_no_place_is_none(text: str) -> None:
    assert log_reading.place(text) is None


@given(st.integers(0, 2**63), st.integers(0, 2**59))
def test_a_place_reads_back_as_it_was_written(inode: int, offset: int) -> None:
    place = log_reading.Place(inode, offset)
    assert log_reading.place(str(place)) == place
    assert log_reading.place(str(offset)) == log_reading.Place(0, offset), "as earlier releases write it"
