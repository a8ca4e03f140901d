"""The shim of a daemon is killed, and the kernel has forgotten that the daemon dies with it: file
capabilities, or a program that undid it. It does not go on, and is never started beside itself.
"""

from __future__ import annotations

import asyncio
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents import paths
from agents.supervisor import runner
from controlplane.host import identity
from hftd.shm import pages
from tests.support.supervised import Host, spec, supervised, sync, until

FORGETS = (
    "import ctypes, os, pathlib, sys, time; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); "
    "pathlib.Path({mark!r}, str(os.getpid())).touch(); time.sleep(600)"
)
"""What the exec of a program with file capabilities does to it; leaves a file for each process of it."""
ROOT = str(Path(__file__).parents[2])


def living(mark: Path) -> list[int]:
    """Processes of the daemon that run now."""
    return [int(each.name) for each in mark.iterdir() if identity.start_time(int(each.name)) is not None]


def marked(tmp_path: Path) -> tuple[Path, str]:
    mark = tmp_path / "mark"
    mark.mkdir()
    return mark, FORGETS.format(mark=str(mark))


@sync
async def test_a_daemon_that_outlives_its_shim_is_killed_and_started_again_once(tmp_path: Path) -> None:
    mark, code = marked(tmp_path)
    host = Host(tmp_path)
    async with supervised(host):
        host.want(spec(code))
        await until(lambda: living(mark))
        [first] = living(mark)
        state = runner.read_state(host.folders.shim_state("bookd-alpha-1"))
        assert state is not None
        os.kill(state.shim.pid, signal.SIGKILL)
        await until(lambda: first not in living(mark) and living(mark))
        assert len(living(mark)) == 1 and host.kinds().count("instance.started") == 2
        assert host.fields("instance.orphan_ended")["pid"] == first
        assert host.fields("instance.exited")["reason"] == "killed together with its shim"


TIED = (
    "import ctypes, os, sys, time; sys.path.insert(0, {root!r}); from hftd.runtime import parent; "
    "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); parent.die_with_shim(os.environ); "
    "print('tied', flush=True); time.sleep(600)"
)


@sync
async def test_a_daemon_of_ours_asks_again_for_what_the_kernel_forgot(tmp_path: Path) -> None:
    host = Host(tmp_path)
    async with supervised(host):
        host.want(spec(TIED.format(root=ROOT)))
        await until(lambda: "tied" in host.log())
        before = host.pid()
        state = runner.read_state(host.folders.shim_state("bookd-alpha-1"))
        assert state is not None and before is not None
        os.kill(state.shim.pid, signal.SIGKILL)
        await until(lambda: host.pid() not in (None, before))
        assert "instance.orphan_ended" not in host.kinds(), "it was dead by itself"


async def next_agent(tmp_path: Path, mark: Path, code: str, damage: Callable[[Path], object]) -> Host:
    """The shim is killed while no agent runs; another agent comes. Never do two daemons run."""
    first = Host(tmp_path)
    async with supervised(first, stop=False):
        first.want(spec(code))
        await until(lambda: living(mark))
        await until(lambda: "instance.started" in first.kinds())
    [pid] = living(mark)
    path = first.folders.shim_state("bookd-alpha-1")
    state = runner.read_state(path)
    assert state is not None
    os.kill(state.shim.pid, signal.SIGKILL)
    await until(lambda: identity.start_time(state.shim.pid) is None)
    assert living(mark) == [pid], "else this test shows nothing"
    damage(path)
    second = Host(tmp_path)
    second.supervisor.adopt()
    most = 0
    async with supervised(second):
        second.want(spec(code))
        async with asyncio.timeout(20):
            while living(mark) in ([], [pid]) or most == 0:
                most = max(most, len(living(mark)))
                await asyncio.sleep(0.001)
        assert most == 1, "one beside the other"
    return second


@sync
async def test_the_next_agent_starts_no_daemon_beside_one_that_has_lost_its_shim(tmp_path: Path) -> None:
    mark, code = marked(tmp_path)
    second = await next_agent(tmp_path, mark, code, lambda path: None)
    assert second.kinds().index("instance.orphan_ended") < second.kinds().index("instance.started")


@sync
async def test_nor_beside_one_whose_state_file_is_gone_too(tmp_path: Path) -> None:
    mark, code = marked(tmp_path)
    second = await next_agent(tmp_path, mark, code, Path.unlink)
    assert second.kinds().index("instance.orphan_ended") < second.kinds().index("instance.started")


# --- with file capabilities, for real -----------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user can come to."""
    made = Path(tempfile.mkdtemp(prefix="hft-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def python(folder: Path) -> Path:
    """An interpreter with a file capability, which lets another user read root's libraries."""
    made = folder / "python"
    shutil.copy(Path(sys.executable).resolve(), made)
    made.chmod(0o755)
    give = shutil.which("setcap", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if os.geteuid() != 0 or give is None:
        pytest.skip("only root can give a file capabilities, with setcap")
    if subprocess.run([give, "cap_dac_read_search+ep", str(made)], check=False).returncode:
        pytest.skip("this file system keeps no capabilities")
    return made


def environment() -> dict[str, str]:
    found = {"PATH": os.environ["PATH"], "PYTHONHOME": sys.base_prefix}
    paths = [ROOT, *(each for each in sys.path if "site-packages" in each)]
    return {**found, "PYTHONPATH": os.pathsep.join(paths)}


def lock_of(folder: Path) -> Path:
    lock = paths.Paths("lab", "alpha", folder, folder).lock("x-alpha-1")
    lock.parent.mkdir(parents=True, exist_ok=True)
    for each in (lock.parent, lock.parent.parent, lock.parent.parent.parent):
        each.chmod(0o777)
    return lock


def shim_of(folder: Path, python: Path, *argv: str) -> tuple[subprocess.Popen[bytes], int]:
    """A shim run by another user, and its daemon's pid."""
    ready, write = os.pipe()
    script = folder / "shim.pyc"
    py_compile.compile(str(Path(runner.__file__).with_name("shim.py")), cfile=str(script), doraise=True)
    plan = {"instance": "x-alpha-1", "service": "x", "host": "alpha", "restarts": 0, "spec_hash": "h"}
    plan |= {
        "spec_revision": 7,
        "config_revision": 1,
        "state": folder / "state",
        "log": folder / "log",
        "log_bytes": 1 << 20,
    }
    plan |= {"log_files": 3, "ready_fd": write, "grace_s": 5, "cpus": "", "lock": lock_of(folder)}
    words = [f"{key}={value}" for key, value in plan.items()]
    shim = subprocess.Popen(
        [str(python), "-I", "-S", str(script), *words, "--", str(python), *argv],
        env=environment(),
        pass_fds=(write,),
        user=NOBODY,
        group=NOBODY,
        extra_groups=(),
        cwd="/",
        stdin=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        assert os.read(ready, 1) == b"1"
    finally:
        os.close(ready)
    state = runner.read_state(folder / "state")
    assert state is not None
    return shim, state.daemon.pid


def logged(folder: Path, text: str) -> None:
    deadline_mono_s = time.monotonic() + 20
    while text not in (said := (folder / "log").read_text() if (folder / "log").exists() else ""):
        assert time.monotonic() < deadline_mono_s, said
        time.sleep(0.01)


def is_dead(pid: int, within_s: float) -> bool:
    deadline_mono_s = time.monotonic() + within_s
    while identity.start_time(pid) is not None:
        if time.monotonic() > deadline_mono_s:
            return False
        time.sleep(0.01)
    return True


def test_a_program_with_file_capabilities_outlives_its_shim_and_the_log_has_said_so(
    folder: Path, python: Path
) -> None:
    """That this is so is why the rest is there; should a kernel change it, this test says so."""
    shim, pid = shim_of(folder, python, "-c", "import time; print('begun', flush=True); time.sleep(600)")
    try:
        logged(folder, "shim.may_be_outlived why='its program has file capabilities (4)'")
        logged(folder, "begun")
        shim.kill()
        shim.wait()
        assert not is_dead(pid, within_s=0.5)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_shim_with_file_capabilities_is_found_without_its_state_file(folder: Path, python: Path) -> None:
    """Though whoever runs it may not look into it: its environment cannot be read."""
    shim, pid = shim_of(folder, python, "-c", "import time; time.sleep(600)")
    try:
        search = (
            "import os, pathlib, sys; from agents import paths; from agents.supervisor import shim_search; "
            "folder = pathlib.Path(sys.argv[1]); "
            "found = list(shim_search.running(paths.Paths('lab', 'alpha', folder, folder))); "
            "pids = [each['daemon']['pid'] for each in found]; "
            'print(pids, os.access(f\'/proc/{found[0]["shim"]["pid"]}/environ\', os.R_OK))'
        )
        done = subprocess.run(
            [str(python), "-c", search, str(folder)],
            env=environment(),
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"[{pid}] False\n", done.stderr
    finally:
        shim.terminate()
        shim.wait(20)


def test_a_daemon_of_ours_dies_with_its_shim_in_spite_of_file_capabilities(
    folder: Path, python: Path
) -> None:
    code = (
        "import os, time; from hftd.runtime import parent; parent.die_with_shim(os.environ); "
        "print('tied', flush=True); time.sleep(600)"
    )
    shim, pid = shim_of(folder, python, "-c", code)
    logged(folder, "tied")
    shim.kill()
    shim.wait()
    assert is_dead(pid, within_s=20)


def test_a_daemon_whose_shim_died_before_it_could_be_tied_to_it_does_not_start() -> None:
    given = {**os.environ, "HFT_SHIM": "4194304"}
    done = subprocess.run(
        [sys.executable, "-m", "hftd", "auditd"], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and "its shim (pid 4194304) is dead: not started" in done.stderr


def test_an_ordinary_daemon_is_tied_and_the_log_has_no_word_of_it(tmp_path: Path) -> None:
    page = tmp_path / "x.alive"
    pages.create(page, pages.ALIVE_MAGIC)

    async def case() -> None:
        host = Host(tmp_path)
        async with supervised(host):
            host.want(
                spec(
                    "import os, time; print('shim', os.environ['HFT_SHIM'], os.getppid(), flush=True); "
                    "time.sleep(600)"
                )
            )
            await until(lambda: "shim " in host.log())
            told = host.log().split()
            assert told[-2] == told[-1] and "may_be_outlived" not in host.log()
            [before] = [host.pid()]
            state = runner.read_state(host.folders.shim_state("bookd-alpha-1"))
            assert state is not None
            os.kill(state.shim.pid, signal.SIGKILL)
            await until(lambda: host.pid() not in (None, before))
            assert "instance.orphan_ended" not in host.kinds()

    asyncio.run(case())
