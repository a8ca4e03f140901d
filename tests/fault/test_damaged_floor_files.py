"""The files by which hft-floord runs a floor, damaged or replaced while it runs: nothing that runs is
touched, it is said with what heals it, and a good file is followed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.floor.folders import Folders
from tests.support import floors

GARBAGE = b"\xff\x00{[" * 40


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as up:
        yield up


def replaced(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.test")
    fresh.write_bytes(content)
    fresh.rename(path)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


RUN_FILES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: replaced(path, b""),
    "garbage": lambda path: replaced(path, GARBAGE),
    "nested": lambda path: replaced(path, b"[" * 100_000),
    "another type": lambda path: replaced(path, b'{"site": 5, "hosts": 7}'),
    "gone": lambda path: path.unlink(),
    "a FIFO": fifo,
    "a folder": folder,
}


@pytest.mark.parametrize("how", RUN_FILES)
def test_a_damaged_run_json_stops_nothing_and_a_good_one_is_followed_again(
    floor: floors.Floor, how: str
) -> None:
    folders = Folders(floor.site_dir)
    path, pids, before = folders.run_json, floor.pids(), floor.parent()
    good, log = path.read_bytes(), folders.log("floord")
    said = log.read_text().count("run.json")
    RUN_FILES[how](path)
    if how != "gone":
        floors.wait_for("it is said", lambda: log.read_text().count("run.json") > said)
    floor.kill(before["processes"]["controld"]["pid"])
    floors.wait_for(
        "hft-floord still looks after its children",
        lambda: (
            (floor.parent()["processes"].get("controld") or before["processes"]["controld"])["pid"]
            != before["processes"]["controld"]["pid"]
        ),
    )
    if path.is_dir():
        path.rmdir()
    replaced(path, good)
    floors.wait_for("healthy", floor.healthy)
    assert floor.pids() == pids and floor.parent()["floord"] == before["floord"]
    done = floor.run("up", "--detach")
    assert done.returncode == 0, done.stderr
    assert floor.pids() == pids


@pytest.mark.parametrize("content", [b"", GARBAGE, b'{"processes": 5}'], ids=["empty", "garbage", "other"])
def test_a_damaged_floor_json_is_written_again(floor: floors.Floor, content: bytes) -> None:
    path, before = Folders(floor.site_dir).floor_json, floor.parent()
    replaced(path, content)
    floors.wait_for("written again", lambda: floor.parent().get("processes") == before["processes"])
    floors.wait_for("healthy", floor.healthy)
