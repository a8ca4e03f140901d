"""Which processes a floor's files may name: its own, by the mark in their environment, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.floor import processes
from controlplane.floor.folders import Folders
from controlplane.host import identity

SLEEPER = [sys.executable, "-I", "-c", "print(flush=True); import time; time.sleep(600)"]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    made = Folders(tmp_path / "site")
    made.create()
    return made


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for one in made:
        one.kill()
        one.wait()
        assert one.stdout is not None
        one.stdout.close()


def sleeper(started: list[subprocess.Popen[bytes]], mark: str | None) -> int:
    environment = {name: value for name, value in os.environ.items() if name != processes.FLOOR_MARK}
    environment |= {processes.FLOOR_MARK: mark} if mark is not None else {}
    started.append(subprocess.Popen(SLEEPER, env=environment, stdout=subprocess.PIPE))
    stdout = started[-1].stdout
    assert stdout is not None and stdout.readline() == b"\n"  # its environment is in place
    return started[-1].pid


def name(folders: Folders, *pids: int) -> None:
    """A floor.json that names these processes, with all that identifies them."""
    known = {f"agent-{pid}": identity.identify(f"agent-{pid}", pid) for pid in pids}
    plain = {name: identity.to_plain(each) for name, each in known.items() if each is not None}
    folders.floor_json.write_text(json.dumps({"floord": None, "processes": plain}))


def test_a_process_without_the_mark_is_none_of_the_floor_s_whatever_a_file_says(
    folders: Folders, started: list[subprocess.Popen[bytes]]
) -> None:
    ours, linked = sleeper(started, str(folders.site_dir)), folders.site_dir.with_name("link")
    linked.symlink_to(folders.site_dir)
    by_link = sleeper(started, str(linked))
    others = [sleeper(started, mark) for mark in (None, "", "/elsewhere", str(folders.site_dir / "below"))]
    name(folders, ours, by_link, *others)
    assert {known.pid for known in processes.recorded(folders)} == {ours, by_link}


def test_one_whose_environment_is_hidden_is_believed_by_its_start_time(
    folders: Folders, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = sleeper(started, None)
    name(folders, hidden)
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "environ":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert [known.pid for known in processes.recorded(folders)] == [hidden]


@pytest.mark.parametrize("content", ["[]", '{"processes": 3}', '{"processes": {"a": [1]}, "floord": "x"}'])
def test_a_file_of_another_shape_names_none(folders: Folders, content: str) -> None:
    folders.floor_json.write_text(content)
    assert processes.recorded(folders) == []
