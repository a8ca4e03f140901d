"""A daemon's last words outlive its agent: what the next one needs to hear the daemon at once."""

from __future__ import annotations

import json
from pathlib import Path

from agents import hello_files
from agents.bus import Reported
from controlplane.model import Process

PROCESS = Process("omsd-alpha-1", "boot", 4711, 99)


def test_the_next_agent_knows_over_which_connection_the_daemon_speaks(tmp_path: Path) -> None:
    files = hello_files.HelloFiles(tmp_path)
    report = Reported(PROCESS, "omsd", "0.1.0", {"replica": "ipc://r"}, b"omsd-alpha-1.5ec7e7")
    assert files.save(report) and not files.save(report)
    report.link = b"omsd-alpha-1.07e7"
    assert files.save(report), "another connection is news"
    saved = hello_files.HelloFiles(tmp_path).read("omsd-alpha-1")
    assert saved is not None and saved.process == PROCESS
    assert hello_files.link_of(saved) == b"omsd-alpha-1.07e7"


def test_a_file_of_an_older_release_means_the_instance_id(tmp_path: Path) -> None:
    files = hello_files.HelloFiles(tmp_path)
    files.save(Reported(PROCESS, "omsd", "0.1.0", {}, b"x"))
    path = tmp_path / "omsd-alpha-1.hello.json"
    content = json.loads(path.read_text())
    for damaged in (
        {key: value for key, value in content.items() if key != "link"},
        content | {"link": "zz"},
    ):
        path.write_text(json.dumps(damaged))
        saved = files.read("omsd-alpha-1")
        assert saved is not None and hello_files.link_of(saved) == b"omsd-alpha-1"
