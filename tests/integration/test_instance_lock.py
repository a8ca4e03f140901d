"""An instance runs once, whatever became of the run folder: its lock is in the site folder, and its shim and
daemon hold it for as long as either lives."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agents.supervisor import program, runner
from controlplane.host import identity, locks
from controlplane.model import Slot
from tests.support.supervised import Host, spec, supervised, sync, until

SLOT = Slot("bookd-alpha-1", "bookd", "alpha")


def elsewhere(host: Host, tmp_path: Path) -> Host:
    """The same host's next agent, told another run folder."""
    other = Host(tmp_path)
    run_dir = tmp_path / "another"
    run_dir.mkdir()
    other.folders = replace(host.folders, run_dir=run_dir)
    other.runner = runner.ShimRunner(
        other.folders, report=lambda kind, **fields: other.events.append((kind, fields))
    )
    other.supervisor._folders, other.supervisor._runner = other.folders, other.runner
    return other


@sync
async def test_an_agent_with_another_run_folder_adopts_what_runs(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path), stop=False) as host:
        host.want(spec())
        await until(host.pid)
        pid = host.pid()
    shutil.rmtree(host.folders.run_dir)
    other = elsewhere(host, tmp_path)
    assert [instance.id for instance in other.supervisor.adopt()] == [SLOT.instance]
    async with supervised(other):
        other.want(spec())
        await until(lambda: other.pid() == pid)
        assert "instance.started" not in other.kinds()


@sync
async def test_what_was_started_after_the_look_is_taken_over_and_not_started_again(tmp_path: Path) -> None:
    """Two agents look, then one starts it: the other finds the lock held."""
    host = Host(tmp_path)
    other = elsewhere(host, tmp_path)
    assert other.supervisor.adopt() == []
    async with supervised(host, stop=False):
        host.want(spec())
        await until(host.pid)
        async with supervised(other):
            other.want(spec())
            await until(other.pid)
            assert other.pid() == host.pid() and other.kinds()[0] != "instance.started"


@sync
async def test_a_second_shim_is_locked_out_and_says_who_runs(tmp_path: Path) -> None:
    host = Host(tmp_path)
    other = elsewhere(host, tmp_path)
    async with supervised(host):
        host.want(spec())
        await until(host.pid)
        ready = program.program(
            spec(),
            SLOT,
            other.folders,
            1,
            argv=(sys.executable, "-c", "print('the other')"),
            environment=os.environ,
            real_time=False,
        )
        with pytest.raises(runner.StartFailed, match=f"pid {host.pid()} has its lock .* nothing is started"):
            await other.runner.start(ready, 0)
        assert "the other" not in host.log() and "shim.locked_out" in host.log()


@sync
async def test_a_daemon_that_outlives_its_shim_is_ended_before_another_is_started(tmp_path: Path) -> None:
    host = Host(tmp_path)
    lock = host.folders.lock(SLOT.instance)
    lock.parent.mkdir(parents=True)
    code = (
        "import fcntl, os, sys, time\n"
        f"fd = os.open({str(lock)!r}, os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(600)"
    )
    orphan = begun(code)
    try:
        assert orphan.stdout is not None and orphan.stdout.readline() == b"held\n"
        known = identity.identify(SLOT.instance, orphan.pid)
        assert known is not None
        lock.write_text(json.dumps(identity.to_plain(known)))
        async with supervised(host):
            host.want(spec())
            await until(host.pid)
            assert await_end(orphan) == -signal.SIGTERM
            assert host.runner is not None and host.pid() != orphan.pid
    finally:
        orphan.kill()
        orphan.wait()


@sync
async def test_a_lock_whose_holder_is_not_known_lets_nothing_start(tmp_path: Path) -> None:
    host = Host(tmp_path)
    lock = host.folders.lock(SLOT.instance)
    with locks.take(lock, "somebody"):
        lock.write_text("{")
        async with supervised(host):
            host.want(spec())
            await until(lambda: "instance.exited" in host.kinds(), timeout_s=60)
            reason = host.fields("instance.exited")["reason"]
            assert f"pid {os.getpid()} has its lock" in reason and "nothing is started beside it" in reason
            assert host.pid() is None
    async with supervised(Host(tmp_path)) as free:
        free.want(spec())
        await until(free.pid)


@sync
async def test_the_lock_names_the_daemon_and_is_free_when_it_has_ended(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        await until(host.pid)
        lock = host.folders.lock(SLOT.instance)
        holder = locks.held_by(lock)
        assert locks.held(lock) and holder is not None and holder.pid == host.pid()
    assert not locks.held(lock)


def begun(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def await_end(child: subprocess.Popen[bytes]) -> int:
    return child.wait(timeout=30)
