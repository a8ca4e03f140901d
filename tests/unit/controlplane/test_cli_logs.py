"""`hftctl logs -f` of a process of the floor, whose log is rotated while it is followed."""

from __future__ import annotations

from pathlib import Path

from controlplane.cli import logs


def test_a_follower_goes_on_in_the_new_file_after_the_rest_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "floord.log"
    path.write_bytes(b"1\n2\n3\n")
    parts = logs.parts(path, 2)
    assert next(parts) == b"2\n3\n" and next(parts) == b""
    with path.open("ab") as file:
        file.write(b"4\n")
        assert not file.flush() and next(parts) == b"4\n"
        path.rename(tmp_path / "floord.log.1")
        assert next(parts) == b"", "between two names"
        file.write(b"5\n")
    path.write_bytes(b"6\n")
    assert [next(parts), next(parts), next(parts)] == [b"5\n", b"6\n", b""]


def test_of_no_lines_a_follower_sees_only_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "floord.log"
    path.write_bytes(b"1\n")
    parts = logs.parts(path, 0)
    assert [next(parts), next(parts)] == [b"", b""]
