"""The scheduler's slice is asked for and seen where the kernel shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hftd.sched import slice

SHOW = """
from pathlib import Path
from hftd.sched import slice
asked = slice.ask(slice.SHORT_NS)
lines = Path("/proc/self/sched").read_text().splitlines()
print(asked, [line.split(":")[1].strip() for line in lines if "se.slice" in line])
"""


def test_a_process_that_asks_for_a_short_slice_has_it_where_the_kernel_knows_slices() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, check=True, timeout=60
    )
    granted, _, seen = done.stdout.strip().partition(" ")
    assert granted == "True"
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if kernel >= (6, 12) and seen != "[]":
        assert seen == f"['{slice.SHORT_NS}']"


def test_a_thread_that_is_gone_is_refused_not_fatal() -> None:
    pid = subprocess.Popen(["true"])
    pid.wait()
    assert not Path(f"/proc/{pid.pid}").exists()
    assert not slice.ask(slice.SHORT_NS, pid.pid)
