"""One lock: one holder, who is named in it; gone with its holder, however that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.errors import InUse
from controlplane.host import identity, locks
from controlplane.model import Process

HOLDER = """
import sys
from pathlib import Path
from controlplane.host import locks
lock = locks.take(Path(sys.argv[1]), sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


class Holder:
    def __init__(self, path: Path, name: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.child.stdout is not None and self.child.stdout.readline() == b"held\n"

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    started = Holder(path, "agent-alpha")
    yield started
    if started.child.poll() is None:
        started.child.send_signal(signal.SIGCONT)
        started.kill()


def test_the_second_is_refused_and_told_path_holder_and_rule(path: Path, holder: Holder) -> None:
    with pytest.raises(InUse) as caught:
        locks.take(path, "agent-alpha", "a host has one agent")
    assert str(caught.value) == (
        f"{path}: held by agent-alpha (pid {holder.child.pid}); a host has one agent"
    )
    assert locks.held(path)
    found = locks.held_by(path)
    assert found is not None and found == identity.identify("agent-alpha", holder.child.pid)


def test_it_is_free_when_its_holder_is_killed_and_then_names_the_next(path: Path, holder: Holder) -> None:
    holder.kill()
    assert not locks.held(path) and locks.held_by(path) is None
    with locks.take(path, "b") as lock:
        assert locks.held(path) and "held" in repr(lock)
        named = locks.held_by(path)
        assert named is not None and (named.instance, named.pid) == ("b", os.getpid())
    assert not locks.held(path)


def test_its_last_holder_is_named_when_it_is_free_again(path: Path) -> None:
    assert locks.last_holder(path) is None
    locks.take(path, "agent").close()
    assert locks.last_holder(path) == identity.myself("agent") and not locks.held(path)
    path.write_bytes(b"rubbish")
    assert locks.last_holder(path) is None


def test_a_child_does_not_inherit_it(path: Path) -> None:
    with locks.take(path, "parent"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert not locks.held(path)
    finally:
        child.kill()
        child.wait()


def test_looking_whether_it_is_held_does_not_make_it_held_for_another(path: Path) -> None:
    """A look takes a shared lock for an instant: who takes the lock just then waits for it."""
    locks.take(path, "first").close()
    looker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, pathlib; from controlplane.host import locks\nprint(1, flush=True)\n"
            "while True: locks.held(pathlib.Path(sys.argv[1]))",
            str(path),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert looker.stdout is not None and looker.stdout.readline()
        for _ in range(100):
            locks.take(path, "again").close()
    finally:
        looker.kill()
        looker.communicate()


def test_no_file_is_no_lock(path: Path) -> None:
    assert not locks.held(path) and locks.held_by(path) is None
    assert not path.parent.exists(), "looking makes nothing"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_name_that_is_none_leaves_the_flock_to_decide(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    assert locks.held_by(path) is None
    with locks.take(path, "a", old_holder_ends_s=0.0):
        assert locks.held_by(path) is not None


def test_an_old_holder_that_lives_on_is_refused_though_it_let_go_of_the_lock(
    path: Path, holder: Holder
) -> None:
    """R18: the pidfd first. The lock is free here; the process that it names is not dead."""
    named = path.read_bytes()
    path.unlink()
    path.write_bytes(named)
    with pytest.raises(InUse, match=rf"agent-alpha \(pid {holder.child.pid}\) still runs after 0.05 s"):
        locks.take(path, "b", old_holder_ends_s=0.05)
    locks.take(path, "b").close()  # where the rule is not asked for, the flock alone decides


def test_an_old_holder_is_waited_for(path: Path, holder: Holder) -> None:
    holder.child.terminate()
    with locks.take(path, "b", old_holder_ends_s=10.0):
        assert not identity.runs(identity.myself("b")) or holder.child.wait(10) == -signal.SIGTERM


def test_the_name_of_another_boot_or_start_is_of_a_dead_process(path: Path) -> None:
    path.parent.mkdir()
    me = identity.to_plain(identity.myself("old"))
    for change in ({"boot_id": "another"}, {"start_time": 1}):
        path.write_text(json.dumps({**me, "pid": 1, **change}))
        assert locks.held_by(path) is None
        locks.take(path, "b", old_holder_ends_s=0.0).close()


NOTHING = [
    b"",
    b"{",
    b"\xff" * 40,
    b"[" * 500,
    b'{"name": "x", "pid": 1e400, "start_time": 1, "boot_id": "b"}',
]


@pytest.mark.parametrize("content", NOTHING)
def test_a_damaged_name_is_no_reason_to_refuse_and_is_written_again(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with locks.take(path, "keeper-alpha", old_holder_ends_s=1.0):
        named = locks.held_by(path)
        assert named is not None and named.pid == os.getpid()


def identity_of_a_thread() -> tuple[dict[str, object], threading.Event]:
    started, done = threading.Event(), threading.Event()
    tids: list[int] = []

    def run() -> None:
        tids.append(threading.get_native_id())
        started.set()
        done.wait(60)

    threading.Thread(target=run, daemon=True).start()
    assert started.wait(60)
    fields = Path(f"/proc/self/task/{tids[0]}/stat").read_text().rpartition(")")[2].split()
    boot = identity.boot_id()
    return {"name": "keeper-alpha", "pid": tids[0], "start_time": int(fields[19]), "boot_id": boot}, done


def test_a_name_that_is_a_thread_s_now_is_no_holder(path: Path) -> None:
    named, done = identity_of_a_thread()
    path.parent.mkdir()
    path.write_text(json.dumps(named))
    try:
        began = time.monotonic()
        with locks.take(path, "keeper-alpha", old_holder_ends_s=30.0):
            assert time.monotonic() - began < 15, "it was not waited for"
        known = identity.from_plain(named)
        assert known is not None and identity.open_pidfd(known) is None and locks.ended(known, 30.0)
    finally:
        done.set()


def test_a_name_that_is_another_living_process_s_is_no_holder_and_refused_with_what_to_do(path: Path) -> None:
    """R18 believes a whole identity (pid, start time, boot): the lock file may have been replaced under its
    holder."""
    path.parent.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        try:
            known = identity.identify("keeper-alpha", other.pid)
            assert known is not None
            path.write_text(json.dumps(identity.to_plain(known)))
            assert locks.holder(path, "keeper-alpha") is None, "an agent adopts what has the lock"
            with pytest.raises(InUse, match=r"a\.lock: keeper-alpha .*the file is damaged: remove it"):
                locks.take(path, "keeper-alpha", old_holder_ends_s=0.05)
            changed = {**identity.to_plain(known), "start_time": known.start_time + 1}
            path.write_text(json.dumps(changed))
            with locks.take(path, "keeper-alpha", old_holder_ends_s=0.05):
                found = locks.holder(path, "keeper-alpha")
                assert found is not None and found.pid == os.getpid()
        finally:
            other.kill()


@pytest.mark.parametrize("content", NOTHING)
def test_the_holder_is_known_though_its_name_is_damaged(path: Path, holder: Holder, content: bytes) -> None:
    path.write_bytes(content)
    found = locks.holder(path, "agent-alpha")
    assert found is not None and (found.instance, found.pid) == ("agent-alpha", holder.child.pid)
    with pytest.raises(InUse):
        locks.take(path, "agent-alpha", old_holder_ends_s=0.1)
    holder.kill()
    assert locks.holder(path, "agent-alpha") is None


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**30])
def test_what_is_no_pid_is_no_process(pid: int) -> None:
    named = {"name": "x", "pid": pid, "start_time": 1, "boot_id": identity.boot_id()}
    assert identity.from_plain(named) is None
    assert identity.open_pidfd(Process("x", identity.boot_id(), pid, 1)) is None
