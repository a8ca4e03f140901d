"""One log: events with fields in one line format; its caller never waits; lost lines are counted and said."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.errors import InvalidSettings
from controlplane.host import log, log_libraries, log_line
from controlplane.host.log_file import LogFile

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) (\S+) (\S+)( .*)?")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def appended(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_line_has_time_level_name_event_and_fields_with_texts_quoted(tmp_path: Path) -> None:
    fd = appended(tmp_path / "a.log")
    with log.started("keeper-alpha", fd=fd):
        log.info("lease.renewed", service="strategy mm", ttl_s=5, why=None)
        log.error("process.failed")
    os.close(fd)
    first, second = lines_of(tmp_path / "a.log")
    assert LINE.fullmatch(first) and LINE.fullmatch(second)
    assert first.partition("Z ")[2] == (
        "INFO keeper-alpha lease.renewed service='strategy mm' ttl_s=5 why=None"
    )
    assert second.partition("Z ")[2] == "ERROR keeper-alpha process.failed"


def test_whatever_a_value_is_it_stays_on_its_line_and_moves_no_cursor() -> None:
    class Odd:
        def __str__(self) -> str:
            return "first\nsecond\r\x1b[2J\u2028\ud800"

    made = log_line.Lines("a").make(
        log_line.INFO, "a.b", {"odd": Odd(), "text": "x\ny\x1b", "path": Path("/é")}
    )
    assert made.isprintable() and "path=/é" in made and "first second" in made
    assert log_line.Lines().make(log_line.INFO, "a.b", {}).endswith("Z INFO - a.b")


def test_below_its_level_nothing_is_written_of_ours_and_of_libraries(tmp_path: Path) -> None:
    fd = appended(tmp_path / "a.log")
    with log.started("a", log_line.WARNING, fd=fd):
        log.debug("a.debug")
        log.info("a.info")
        log.warning("a.warning")
        logging.getLogger("library.part").info("not this")
        logging.getLogger("library.part").warning("said %d times", 3)
    os.close(fd)
    found = [line.partition("Z ")[2] for line in lines_of(tmp_path / "a.log")]
    assert found == ["WARNING a a.warning", "WARNING a library.part message='said 3 times'"]


def test_a_record_that_a_library_formed_wrongly_is_said_as_it_is() -> None:
    said: list[tuple[int, str, object]] = []
    handler = log_libraries.Handler(lambda level, event, fields: said.append((level, event, fields)))
    handler.emit(logging.LogRecord("library", 45, "", 1, "said %d times", ("three",), None))
    ((level, event, fields),) = said
    assert (level, event) == (log_line.ERROR, "library") and "'not_formatted'" in str(fields)


def test_a_traceback_of_a_library_is_a_field(tmp_path: Path) -> None:
    fd = appended(tmp_path / "a.log")
    with log.started("a", fd=fd):
        try:
            raise KeyError("x")
        except KeyError:
            logging.getLogger("asyncio").exception("a task failed")
    os.close(fd)
    (line,) = lines_of(tmp_path / "a.log")
    assert "ERROR a asyncio message='a task failed' traceback=" in line and "KeyError" in line


@pytest.mark.parametrize("given", ["loud", "INFO", "20"])
def test_a_level_that_is_none_is_refused_by_name(given: str) -> None:
    with pytest.raises(InvalidSettings, match=f'HFT_LOG_LEVEL "{given}"'):
        log_line.level_from_environment({"HFT_LOG_LEVEL": given})


def test_the_level_is_info_unless_the_environment_says_otherwise() -> None:
    assert log_line.level_from_environment({}) == log_line.INFO
    assert log_line.level_from_environment({"HFT_LOG_LEVEL": "error"}) == log_line.ERROR


def test_a_reader_that_stands_still_costs_lines_and_no_time_and_that_is_said(pipe: tuple[int, int]) -> None:
    read, write = pipe
    lines = log_line.Lines("a")
    aside = log.Aside(LogFile(write), lines, lines_max=100)
    for number in range(3000):  # far more than a pipe and the queue hold; nobody reads
        aside.put(lines.make(log_line.INFO, "a.b", {"number": number, "text": "x" * 100}))
    lost = aside.lines_dropped()
    assert lost > 1000
    found: list[str] = []

    def reading() -> None:
        rest = ""
        while part := os.read(read, 1 << 16).decode():
            rest += part
            if "last" in rest:
                break
        found.extend(rest.splitlines())

    reader = threading.Thread(target=reading)
    reader.start()
    assert aside.flush(10)
    aside.put(lines.make(log_line.INFO, "a.last", {}))
    reader.join(10)
    aside.stop()
    assert all(LINE.fullmatch(line) for line in found), "whole lines"
    said = [int(line.split("lines=")[1]) for line in found if "log.lines_dropped" in line]
    assert sum(said) == lost == aside.lines_dropped()
    assert len([line for line in found if " a.b " in line]) == 3000 - lost


def test_a_log_into_a_pipe_that_nobody_reads_any_more_ends_in_time_and_counts(pipe: tuple[int, int]) -> None:
    read, write = os.pipe()
    os.close(read)
    with log.started("a", fd=write):
        for _ in range(5):
            log.info("a.b")
        log.flush()
        assert log.lines_dropped() == 5
    os.close(write)


def test_a_full_disk_costs_lines_that_are_counted() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    with log.started("a", fd=fd):
        log.info("a.b")
        log.flush()
        assert log.lines_dropped() == 1
    os.close(fd)


def test_after_a_line_that_a_full_disk_cut_the_next_begins_on_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = appended(tmp_path / "a.log")
    file, real_write, calls = LogFile(fd), os.write, []

    def full(fd: int, content: bytes) -> int:
        calls.append(fd)
        if len(calls) == 1:
            return real_write(fd, content[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not file.write(b"first line\n")
    monkeypatch.undo()
    assert file.write(b"second line\n")
    os.close(fd)
    assert lines_of(tmp_path / "a.log") == ["firs", "second line"]


def test_it_is_rotated_while_it_is_written_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    fd = appended(path)
    file = LogFile(fd, bytes_max=1000, files_max=100)
    for number in range(500):
        assert file.write(b"line %03d\n" % number)
    os.close(fd)
    rotated = sorted(tmp_path.iterdir(), key=lambda each: -int(each.suffix[1:]) if each != path else 0)
    assert len(rotated) == 5 and all(each.stat().st_size <= 1000 for each in rotated)
    found = [line for each in rotated for line in lines_of(each)]
    assert found == [f"line {number:03d}" for number in range(500)]


def test_only_so_many_files_are_kept(tmp_path: Path) -> None:
    fd = appended(tmp_path / "a.log")
    file = LogFile(fd, bytes_max=100, files_max=3)
    for number in range(100):
        assert file.write(b"line %03d\n" % number)
    os.close(fd)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert lines_of(tmp_path / "a.log")[-1] == "line 099"


def test_a_file_that_is_not_appended_to_is_not_ours_to_rotate(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "a.log", os.O_WRONLY | os.O_CREAT)
    file = LogFile(fd, bytes_max=10, files_max=3)
    for _ in range(10):
        assert file.write(b"0123456\n")
    os.close(fd)
    assert [each.name for each in tmp_path.iterdir()] == ["a.log"]


@pytest.mark.parametrize("how", ["removed", "renamed", "renamed and made anew"])
def test_a_log_that_somebody_removed_or_renamed_is_begun_anew_under_its_name(
    tmp_path: Path, how: str
) -> None:
    path = tmp_path / "a.log"
    fd = appended(path)
    file = LogFile(fd)
    assert file.write(b"before\n")
    if how == "removed":
        path.unlink()
    else:
        path.rename(tmp_path / "old")
        if how != "renamed":
            path.write_bytes(b"by another\n")
    assert file.write(b"after\n") and file.write(b"and on\n")
    os.close(fd)
    assert lines_of(path)[-2:] == ["after", "and on"]
    if how != "removed":
        assert lines_of(tmp_path / "old") == ["before"]


def test_a_log_whose_folder_is_gone_costs_no_error_and_comes_back_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    fd = appended(folder / "a.log")
    file = LogFile(fd)
    folder.rename(tmp_path / "away")
    assert file.write(b"into the old one\n")
    folder.mkdir()
    assert file.write(b"back\n")
    os.close(fd)
    assert lines_of(folder / "a.log") == ["back"]


def test_a_folder_that_takes_no_new_file_costs_the_rotation_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = appended(tmp_path / "a.log")
    file = LogFile(fd, bytes_max=10, files_max=3)
    file.write(b"0123456\n")

    def refused(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", refused)
    assert file.write(b"89abcde\n")
    monkeypatch.undo()
    os.close(fd)
    assert lines_of(tmp_path / "a.log.1") == ["0123456", "89abcde"], "the old file, under its new name"


def test_what_a_library_says_again_and_again_is_said_once_and_then_how_often() -> None:
    said: list[dict[str, object]] = []
    now = [1000.0]
    handler = log_libraries.Handler(
        lambda level, event, fields: said.append({"event": event, **fields}), lambda: now[0]
    )

    def emit(name: str, message: str) -> None:
        handler.emit(logging.LogRecord(name, logging.ERROR, "", 1, message, (), None))

    for _ in range(50):
        emit("asyncio", "out of descriptors")
        emit("grpc", "out of descriptors")
        now[0] += 1
    assert said == [{"event": name, "message": "out of descriptors"} for name in ("asyncio", "grpc")]
    now[0] += log_libraries.SAY_AGAIN_S
    emit("asyncio", "out of descriptors")
    assert said[2:] == [{"event": "asyncio", "message": "out of descriptors", "repeated": 49}]
    for number in range(1000):
        emit("grpc", f"message {number}")
    assert len(said) == 1003 and len(handler._said) == log_libraries.MESSAGES_MAX
