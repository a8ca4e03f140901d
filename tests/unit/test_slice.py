"""The scheduler's slice is asked for and seen where the kernel shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hftd.native import slice

SHOW = """
import json
from pathlib import Path
from hftd import cli
from hftd.native import slice

cli.load(cli.kind_of({daemon!r}))
tasks = [task for task in Path("/proc/self/task").iterdir()]
slices = lambda task: [int(line.split(":")[1]) for line in (task / "sched").read_text().splitlines() if "se.slice" in line]
print(json.dumps([[(task / "comm").read_text().strip(), slices(task)] for task in tasks]))
"""

needs_slices = pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 12) or "se.slice" not in Path("/proc/self/sched").read_text(),
    reason="a kernel before 6.12, or one that does not show slices",
)


def test_a_wish_is_granted_or_ignored_but_not_refused() -> None:
    done = subprocess.run([sys.executable, "-c", "from hftd.native import slice; print(slice.ask(slice.SHORT_NS))"], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


@needs_slices
def test_a_daemon_on_the_path_has_a_short_slice_and_its_messaging_threads_a_shorter_one() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW.format(daemon="omsd")], capture_output=True, text=True, check=True, timeout=60)
    by_thread = dict(json.loads(done.stdout))
    assert by_thread.pop("python", by_thread.pop("python3", None)) == [slice.SHORT_NS]
    assert any(found == [slice.SHORTEST_NS] for name, found in by_thread.items() if "IO" in name), by_thread


def test_a_thread_that_is_gone_is_refused_not_fatal() -> None:
    pid = subprocess.Popen(["true"])
    pid.wait()
    assert not Path(f"/proc/{pid.pid}").exists()
    assert not slice.ask(slice.SHORT_NS, pid.pid)
