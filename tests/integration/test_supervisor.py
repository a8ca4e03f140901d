"""The supervisor with real shims and processes: restart, reasons, logs, stop, new specs, adoption."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from agents.supervisor import program, runner, shim_search, supervisor
from agents.supervisor.states import State
from controlplane.host import identity
from controlplane.model import Mode
from hftd.shm import pages
from tests.support.supervised import SLEEPER, Host, spec, supervised, sync, until

STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('begun', flush=True); time.sleep(600)"
)


@sync
async def test_an_instance_that_is_killed_is_restarted_and_the_event_says_how_it_died(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        await until(host.pid)
        first = host.pid()
        os.kill(first, signal.SIGKILL)
        await until(lambda: host.pid() not in (None, first))
        assert host.fields("instance.exited") | {"pid": 0} == {
            "instance": "bookd-alpha-1",
            "pid": 0,
            "reason": "killed by SIGKILL",
            "restart_in_s": 0.0,
        }
        instance = host.supervisor.instances["bookd-alpha-1"]
        assert (instance.restarts, instance.crashes) == (1, 1)
        host.want(spec(depth=5))
        await until(lambda: instance.restarts == 2)
        assert instance.crashes == 1, "a changed spec is no crash"
        await until(host.pid)
        adopted = host.runner.adopt(instance.id)
        assert adopted is not None and (adopted.restarts, adopted.crashes) == (2, 1), (
            "the next agent counts on"
        )
        await adopted.close()


@sync
async def test_a_crash_loop_is_slowed_down_and_names_exit_status_and_last_line(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec("import sys; print('no such tape'); sys.exit(3)"))
        await until(lambda: host.kinds().count("instance.exited") == 3)
        delays = [fields["restart_in_s"] for kind, fields in host.events if kind == "instance.exited"]
        assert delays == [0.0, 0.2, 0.4]
        assert host.fields("instance.exited")["reason"] == "exit status 3: no such tape"
        looping = host.supervisor.instances["bookd-alpha-1"]
        assert looping.state is State.BACKOFF
        assert (looping.short_lives, looping.last_death) == (3, "exit status 3: no such tape")
        host.want(spec("import time; time.sleep(60)"))
        await until(host.pid)
        assert looping.short_lives == 0, "another program: its predecessor's crashes say nothing about it"


@sync
async def test_being_ready_for_long_enough_ends_a_crash_loop_whatever_comes_after(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        for short_lives in (1, 2):
            await until(host.pid)
            first, looping = host.pid(), host.supervisor.instances["bookd-alpha-1"]
            host.supervisor.ready(looping, True)
            os.kill(first, signal.SIGKILL)
            await until(lambda first=first: host.pid() not in (None, first))
            assert looping.short_lives == short_lives
        host.supervisor.ready(looping, True)
        host.supervisor.ready(looping, False)
        assert looping.short_lives == 2, "it was ready for a moment only"
        host.supervisor.ready(looping, True)
        looping.ready_since_mono_s -= supervisor.STABLE_S
        host.supervisor.ready(looping, False)
        assert looping.short_lives == 0


@sync
async def test_what_is_no_longer_wanted_is_stopped_and_leaves_no_process(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        await until(lambda: "begun" in host.log())
        running = host.supervisor.instances["bookd-alpha-1"].running
        assert running is not None
        host.want()
        await until(lambda: not host.supervisor.instances)
        assert not identity.runs(running.process)
        await until(lambda: not identity.runs(running.shim))
        assert host.fields("instance.stopped")["reason"] == "exit status 0"


@sync
async def test_a_daemon_that_ignores_sigterm_is_killed_by_its_shim(tmp_path: Path) -> None:
    host = Host(tmp_path)
    started = await host.runner.start(short_grace(host, STUBBORN), 0)
    await until(lambda: "begun" in host.log())
    started.stop()
    ended = await started.death()
    await started.close()
    assert ended is not None
    assert ended.words == "killed by SIGKILL"
    assert "did not stop within 0.2 s" in host.log()


@sync
async def test_a_daemon_that_is_stopped_in_its_first_moment_ends_at_once(tmp_path: Path) -> None:
    """Between its start and its own handler SIGTERM has its plain meaning, and is never lost."""
    host = Host(tmp_path)
    for _ in range(10):
        started = await host.runner.start(short_grace(host, SLEEPER), 0)
        started.stop()
        ended = await started.death()
        await started.close()
        # By its plain meaning or, when it was quicker than we, by its handler; not by the grace.
        assert ended is not None and ended.words in {"killed by SIGTERM", "exit status 0"}


@sync
async def test_a_shim_that_is_gone_between_two_looks_has_still_told_how_its_daemon_ended(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    started = await host.runner.start(short_grace(host, SLEEPER), 0)
    started.stop()
    await until(lambda: (state := runner.read_state(started.state_path)) and state.exit)
    looked, real = [False], runner.read_state

    def too_early(path: Path) -> Any:
        """The first look is from before the shim's last words."""
        state = real(path)
        if not looked[0] and state is not None:
            looked[0], state = True, msgspec.structs.replace(state, exit=None)
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "read_state", too_early)
        patch.setattr(identity, "runs", lambda process: not looked[0])  # and right after it the shim is gone
        ended = await started.death()
    await started.close()
    assert looked[0] and ended is not None


def short_grace(host: Host, code: str) -> program.Program:
    slot = spec().slots()[0]
    made = program.program(
        spec(),
        slot,
        host.folders,
        1,
        argv=(sys.executable, "-c", code),
        environment=os.environ,
        real_time=False,
    )
    return replace(made, grace_s=0.2)


@sync
async def test_a_changed_spec_restarts_only_that_instance(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        other = spec(name="marketd")
        host.want(spec(), other)
        await until(lambda: host.pid() and host.pid("marketd-alpha-1"))
        before = host.pid(), host.pid("marketd-alpha-1")
        host.want(spec(depth=5), other)
        await until(lambda: host.pid() not in (None, before[0]))
        assert host.pid("marketd-alpha-1") == before[1]
        assert host.fields("instance.stopping")["reason"] == "its spec or its settings changed"
        assert host.supervisor.instances["bookd-alpha-1"].state is State.STARTING


@sync
async def test_a_leader_is_restarted_for_its_changed_spec_only_when_released(tmp_path: Path) -> None:
    allowed: list[bool] = []
    async with supervised(Host(tmp_path, released=lambda instance: bool(allowed))) as host:
        host.want(spec())
        await until(host.pid)
        before = host.pid()
        host.want(spec(depth=5))
        await asyncio.sleep(0.4)  # more than one look
        assert host.pid() == before
        allowed.append(True)
        await until(lambda: host.pid() not in (None, before))


@sync
async def test_a_new_supervisor_adopts_what_the_old_one_left_and_still_sees_it_die(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path), stop=False) as old:
        old.want(spec(), spec(name="marketd"))
        await until(lambda: old.pid() and old.pid("marketd-alpha-1"))
        before = old.pid(), old.pid("marketd-alpha-1")
    new = Host(tmp_path)
    adopted = new.supervisor.adopt()
    assert sorted(instance.id for instance in adopted) == ["bookd-alpha-1", "marketd-alpha-1"]
    async with supervised(new):
        new.want(spec(), spec(name="marketd"))
        assert (new.pid(), new.pid("marketd-alpha-1")) == before
        assert new.kinds() == ["instance.adopted"] * 2
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: new.pid() not in (None, before[0]))
        assert new.fields("instance.exited")["reason"] == "killed by SIGKILL"
        assert new.pid("marketd-alpha-1") == before[1]


@sync
async def test_an_adopted_instance_is_left_alone_until_the_specs_are_known_and_then_stopped_if_unwanted(
    tmp_path: Path,
) -> None:
    async with supervised(Host(tmp_path), stop=False) as old:
        old.want(spec())
        await until(old.pid)
    new = Host(tmp_path)
    new.supervisor.adopt()
    async with supervised(new):
        await asyncio.sleep(0.1)
        assert new.pid() == old.pid()
        new.want()
        await until(lambda: not new.supervisor.instances)


@sync
async def test_a_pid_that_belongs_to_somebody_else_by_now_is_not_adopted(tmp_path: Path) -> None:
    host = Host(tmp_path)
    started = await host.runner.start(short_grace(host, SLEEPER), 0)
    path = host.folders.shim_state("bookd-alpha-1")
    text = path.read_text()
    path.write_text(
        text.replace(
            f'"start_time": {started.process.start_time}', f'"start_time": {started.process.start_time - 1}'
        )
    )
    assert host.runner.adopt("bookd-alpha-1") is None
    assert identity.runs(started.process)
    path.write_text(text)
    started.stop()
    await started.death()
    await started.close()


@sync
async def test_a_daemon_dies_with_its_shim_and_is_restarted(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        await until(lambda: "begun" in host.log())
        running = host.supervisor.instances["bookd-alpha-1"].running
        assert running is not None
        os.kill(running.shim.pid, signal.SIGKILL)
        await until(lambda: host.pid() not in (None, running.process.pid))
        assert not identity.runs(running.process)
        assert host.fields("instance.exited")["reason"] == "killed together with its shim"


@sync
async def test_each_process_gets_new_words_and_a_lease_only_where_there_is_a_leader(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec(), spec(name="omsd", mode=Mode.ACTIVE_STANDBY))
        await until(lambda: host.pid() and host.pid("omsd-alpha-1"))
        folders = host.folders
        assert not folders.lease("bookd-alpha-1").exists()
        lease = folders.lease("omsd-alpha-1")
        inode = lease.stat().st_ino
        with pages.LeasePage(lease, writable=True) as old:
            first = host.pid("omsd-alpha-1")
            os.kill(first, signal.SIGKILL)
            await until(lambda: host.pid("omsd-alpha-1") not in (None, first))
            old.write(
                pages.LeaseWord(
                    identity.identify("omsd-alpha-1", host.pid("omsd-alpha-1")),
                    1,
                    1,
                    pages.Wanted.LEAD,
                    1 << 62,
                )
            )
            with pages.LeasePage(lease) as new:
                assert new.read() == pages.NOBODY
        assert lease.stat().st_ino != inode


@sync
async def test_the_log_is_rotated_and_a_full_disk_under_it_does_not_hurt_the_daemon(tmp_path: Path) -> None:
    bytes_max, marker = 128 << 10, tmp_path / "marker"
    loud = "for n in range(6000): print('line', n, 'x' * 90)\nprint('end', flush=True)"
    chatter = f"import time, pathlib\n{loud}\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(600)"
    async with supervised(Host(tmp_path, log_bytes_max=bytes_max)) as host:
        host.want(spec(chatter))
        await until(lambda: host.log().endswith("end\n"))
        sizes = [
            path.stat().st_size for path in sorted(host.folders.log("x").parent.glob("bookd-alpha-1.log*"))
        ]
        assert len(sizes) == 3
        assert all(size <= bytes_max for size in sizes)
        host.want()
        await until(lambda: not host.supervisor.instances)

        marker.unlink()
        log = host.folders.log("bookd-alpha-1")
        for path in log.parent.glob("bookd-alpha-1.log*"):
            path.unlink()
        log.symlink_to("/dev/full")
        host.want(spec(chatter))
        await until(marker.exists)
        pid = host.pid()
        host.want()
        await until(lambda: not host.supervisor.instances)
        ended = runner.read_state(host.folders.shim_state("bookd-alpha-1"))
        assert ended is not None
        assert ended.daemon.pid == pid
        assert ended.exit is not None
        assert ended.exit.signal == signal.SIGTERM
        assert ended.log_lines_dropped > 5000


@sync
async def test_a_shim_is_small(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        await until(lambda: "begun" in host.log())
        running = host.supervisor.instances["bookd-alpha-1"].running
        assert running is not None
        assert psutil.Process(running.shim.pid).memory_info().rss < 10 << 20


@sync
async def test_a_program_that_cannot_be_run_is_reported_with_the_reason(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.supervisor._command = lambda spec: ("/nowhere/python", "-c", "")
    async with supervised(host):
        host.want(spec())
        await until(lambda: "instance.exited" in host.kinds())
        assert "/nowhere/python" in host.fields("instance.exited")["reason"]


@pytest.mark.parametrize("cpu", [min(os.sched_getaffinity(0))])
def test_the_daemon_is_pinned_before_it_runs(tmp_path: Path, cpu: int) -> None:
    async def run() -> None:
        async with supervised(Host(tmp_path)) as host:
            host.want(
                replace(
                    spec(
                        "import os, time; print(sorted(os.sched_getaffinity(0)), flush=True); time.sleep(600)"
                    ),
                    cpus=(cpu,),
                )
            )
            await until(lambda: host.log().endswith("\n"))
            assert host.log() == f"[{cpu}]\n"

    asyncio.run(run())


@sync
async def test_a_shim_has_its_instance_s_name_and_is_still_found_by_its_plan(tmp_path: Path) -> None:
    async with supervised(Host(tmp_path)) as host:
        host.want(spec())
        await until(lambda: "begun" in host.log())
        running = host.supervisor.instances["bookd-alpha-1"].running
        assert running is not None
        proc = Path(f"/proc/{running.shim.pid}")
        assert (proc / "cmdline").read_bytes().startswith(b"hft-shim bookd-alpha-1\0-I\0-S\0")
        assert (proc / "comm").read_text() == "hft-shim bookd-\n"
        assert b"HFT_INSTANCE=bookd-alpha-1" in (proc / "environ").read_bytes().split(b"\0")
        (found,) = shim_search.running(host.folders)
        assert (found["shim"]["pid"], found["daemon"]["pid"]) == (running.shim.pid, running.process.pid)


FAMILY = """
import os, sys, time
def child(*sessions):
    pid = os.fork()
    if pid == 0:
        for _ in sessions:
            os.setsid()
        os.write(1, b"child %d\\n" % os.getpid())  # a line at once: others write beside it
        time.sleep(600)
child()
child("a session of its own")
if os.fork() == 0:  # and one whose parent is gone
    child("again")
    os._exit(0)
os.wait()
print("begun", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_daemon_has_started_ends_with_it_in_whatever_session(
    tmp_path: Path, how: signal.Signals
) -> None:
    async def run() -> None:
        async with supervised(Host(tmp_path)) as host:
            host.want(spec(FAMILY))
            await until(lambda: "begun" in host.log() and host.log().count("child") == 3)
            running = host.supervisor.instances["bookd-alpha-1"].running
            assert running is not None
            (found,) = shim_search.running(host.folders)
            assert found["daemon"]["pid"] == running.process.pid, "not what it has left to the shim"
            children = [int(line.split()[1]) for line in host.log().splitlines() if "child" in line]
            assert all(identity.start_time(pid) for pid in children)
            host.supervisor._command = lambda spec: (sys.executable, "-c", SLEEPER)
            if how is signal.SIGKILL:
                os.kill(running.process.pid, how)
            else:
                host.want()
            await until(lambda: not any(identity.start_time(pid) for pid in children))
            await until(lambda: not identity.runs(running.shim))

    asyncio.run(run())


@pytest.fixture
def odd_starter(tmp_path: Path) -> Iterator[None]:
    """This process as some shell might start an agent."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    umask, cpus, folder = os.umask(0), os.sched_getaffinity(0), Path.cwd()
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.sched_setaffinity(0, {min(cpus)})
    os.chdir(tmp_path)
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, nice + 5)
    yield
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    os.chdir(folder)
    os.sched_setaffinity(0, cpus)
    os.umask(umask)
    signal.signal(signal.SIGUSR2, ignored)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def has_nothing_of_its_starter(pid: int) -> None:
    told = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in told if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0 and status["Umask"] == "0077"
    assert not int(status["SigIgn"], 16) & (1 << (signal.SIGUSR2 - 1))
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(1)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 0
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")


@pytest.mark.usefixtures("odd_starter")
def test_a_daemon_has_nothing_of_what_its_starter_had(tmp_path: Path) -> None:
    async def run() -> None:
        async with supervised(Host(tmp_path)) as host:
            host.want(spec())
            await until(lambda: "begun" in host.log())
            pid = host.pid()
            assert pid is not None
            has_nothing_of_its_starter(pid)

    asyncio.run(run())


@sync
async def test_a_log_that_was_removed_or_renamed_is_begun_anew(tmp_path: Path) -> None:
    counter = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.01)"
    async with supervised(Host(tmp_path)) as host:
        host.want(spec(counter))
        await until(lambda: host.log().count("\n") > 5)
        path = host.folders.log("bookd-alpha-1")
        path.unlink()
        await until(lambda: host.log().count("\n") > 5)
        path.rename(old := path.with_name("old.log"))
        await until(lambda: host.log().count("\n") > 5)
        numbers = [int(line) for part in (old.read_text(), host.log()) for line in part.split()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "none lost between the two"
