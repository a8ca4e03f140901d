"""What ps and top show of a process: its title. The environment behind it stays as it was, whatever it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CHILD = """
import json, sys
from pathlib import Path
from controlplane.host import title

def found():
    me = Path("/proc/self")
    return [(me / name).read_bytes().decode("latin-1") for name in ("cmdline", "comm", "environ", "stat")]

before = found()
for each in json.loads(sys.argv[1]):
    title.show(each[0], each[1:])
print(json.dumps([before, found()]))
"""


def shown(*titles: list[str], environment: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    """cmdline, comm, environ and stat before and after these titles, one after the other."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(titles), "--padding"],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = json.loads(done.stdout)
    return before, after


def test_it_is_the_command_line_and_as_much_as_fits_the_short_name() -> None:
    before, (cmdline, comm, environ, stat) = shown(["hft-agentd alpha@lab", "--host", "alpha"])
    assert cmdline.rstrip("\0").split("\0") == ["hft-agentd alpha@lab", "--host", "alpha"]
    assert comm == "hft-agentd alph\n" and "(hft-agentd alph)" in stat
    assert environ == before[2] and len(cmdline) == len(before[0])


@pytest.mark.parametrize("title", ["x", "x" * 10_000, "ä" * 5_000, "", "two words", "a) b ("])
def test_whatever_it_is_the_floor_s_mark_stays_readable(title: str) -> None:
    before, (cmdline, _, environ, _) = shown(
        [title, "y" * 10_000], [title], environment={"HFT_FLOOR": "/srv/floor"}
    )
    assert environ == before[2] and "HFT_FLOOR=/srv/floor" in environ.split("\0")
    assert len(cmdline) == len(before[0]) and cmdline.endswith("\0")
    assert cmdline.rstrip("\0").encode("latin-1") == title.encode()[: len(cmdline) - 1]
