"""A process without descriptors takes no other for dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys

CHILD = """
import json, os, sys
from dataclasses import replace
from controlplane.host import identity
me, parent = identity.myself("me"), identity.identify("parent", os.getppid())
gone = replace(me, pid=identity.PID_MAX)
other = replace(parent, start_time=1)
before = [identity.runs(each) for each in (me, parent, gone, other)]
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
during = [identity.runs(each) for each in (me, parent, gone, other)]
for fd in taken:
    os.close(fd)
after = [identity.runs(each) for each in (me, parent, gone, other)]
print(json.dumps([before, during, after]))
"""


def test_without_descriptors_a_pid_that_is_taken_counts_as_the_process_that_had_it() -> None:
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 64; "$0" -c "$1"', sys.executable, CHILD],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    before, during, after = json.loads(done.stdout)
    assert before == after == [True, True, False, False]
    assert during == [True, True, False, True], "who is taken for dead is started a second time"
