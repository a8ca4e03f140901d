"""Scripts as checks: what they are given, how far they may go, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agents.checks.prober import Job, Prober
from agents.checks.target import Result
from controlplane.model import checks
from tests.support.looks import HANG_S, SOON_S, TARGET, http, look, ping, server, sync


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "checks"
    found.mkdir(mode=0o755)
    return found


def script(folder: Path, text: str, **fields: Any) -> checks.ScriptCheck:
    path = folder / "check.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return checks.ScriptCheck(name="script", program="check.sh", **{"timeout_s": 10.0, **fields})


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def gone(pid: int) -> bool:
    deadline_s = time.monotonic() + SOON_S
    while runs(pid) and time.monotonic() < deadline_s:  # noqa: ASYNC110  processes set no event
        await asyncio.sleep(0.01)
    return not runs(pid)


@sync
async def test_a_script_says_how_it_is_by_its_exit_status(folder: Path) -> None:
    assert await look(script(folder, "echo fine"), folder) == Result("passing", "fine")
    assert await look(script(folder, "echo soon >&2; exit 1"), folder) == Result("warning", "soon")
    assert await look(script(folder, "exit 2"), folder) == Result("critical", "check.sh ended with status 2")
    assert (await look(script(folder, "exit 99"), folder)).state == "critical"
    found = await look(script(folder, "echo dying; kill -SEGV $$"), folder)
    assert found == Result("critical", "check.sh was killed by SIGSEGV: dying")


@sync
async def test_arguments_are_taken_as_they_stand_and_placeholders_filled_in(folder: Path) -> None:
    words = ("$(id)", "a b", "*", "", "{instance}", "; exit 2", "-n")
    found = await look(script(folder, 'for word; do echo "<$word>"; done', arguments=words), folder)
    assert found.output == "<$(id)>\n<a b>\n<*>\n<>\n<web-alpha-1>\n<; exit 2>\n<-n>"


@sync
async def test_a_script_has_no_input_no_descriptor_and_little_environment_of_its_agent(folder: Path) -> None:
    with (folder / "secret").open("w") as open_file:
        os.set_inheritable(open_file.fileno(), True)
        text = "cat; ls /proc/self/fd | wc -l; env | cut -d= -f1 | sort | tr '\\n' ' '; ulimit -c; ulimit -n"
        found = await look(script(folder, text), folder)
    descriptors, rest = found.output.split("\n", 1)
    assert int(descriptors) <= 4, "0, 1, 2 and the folder that ls reads"
    names, _, limits = rest.rpartition(" ")
    core, files = limits.split()
    assert set(names.split()) <= {
        *(
            "HFT_CHECK",
            "HFT_CHECK_RUN",
            "HFT_FLOOR",
            "HFT_HOST",
            "HFT_INSTANCE",
            "HFT_SERVICE",
            "LANG",
            "PATH",
            "PWD",
            "OLDPWD",
            "_",
            "SHLVL",
        )
    }
    assert (core, files) == ("0", "256")


@sync
async def test_a_script_that_hangs_and_ignores_sigterm_is_killed_with_all_that_it_forked(
    folder: Path,
) -> None:
    text = "trap '' TERM INT HUP; sleep 3600 & echo $! > pid; sleep 3600 & echo $! >> pid; wait".replace(
        "pid", str(folder / "pids")
    )
    found = await look(script(folder, text, timeout_s=1.0), folder)
    assert found == Result("critical", "killed, as it had not ended within 1 s")
    for pid in (folder / "pids").read_text().split():
        assert await gone(int(pid)), pid


@sync
async def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_check(folder: Path) -> None:
    text = f"(sleep 3600) & echo $! > {folder}/pid; echo done"
    began_s = time.monotonic()
    found = await look(script(folder, text), folder)
    assert found == Result("passing", "done") and time.monotonic() - began_s < 9
    assert await gone(int((folder / "pid").read_text()))


@sync
async def test_what_a_script_leaves_in_its_group_ends_with_it_though_it_holds_nothing(folder: Path) -> None:
    text = f"sleep 3600 > /dev/null 2>&1 & echo $! > {folder}/pid"
    shown = "read a b c d group session rest < /proc/$$/stat; echo $$ $group $session"
    found = await look(script(folder, f"{text}; {shown}"), folder)
    assert len(set(found.output.split())) == 1, "a session and a group of its own"
    assert await gone(int((folder / "pid").read_text()))


@sync
async def test_a_grandchild_in_a_session_of_its_own_does_not_hold_the_check_and_is_ended(
    folder: Path,
) -> None:
    begun = f"setsid sh -c 'echo $$ > {folder}/pid; exec sleep 3600' &"
    for more, timeout_s, said in (
        ("echo done", 10.0, "done"),
        ("sleep 3600", 1.0, "killed, as it had not ended within 1 s"),
    ):
        text = f"{begun} while ! [ -s {folder}/pid ]; do :; done; {more}"
        found = await look(script(folder, text, timeout_s=timeout_s), folder)
        assert found.output == said
        assert await gone(int((folder / "pid").read_text())), "found by its environment"
        (folder / "pid").unlink()


@sync
async def test_what_an_agent_before_this_one_left_running_is_ended_and_nobody_elses(folder: Path) -> None:
    def left_by(owner: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["/bin/sleep", "3600"], env={"HFT_CHECK_OF": owner})

    ours, theirs = left_by("alpha of /site"), left_by("alpha of /site2")
    prober = Prober(folder, lambda job: None, lambda job, result, took_s: None, "alpha of /site")
    running = asyncio.create_task(prober.run())
    try:
        assert await gone(ours.pid)
        assert runs(theirs.pid)
    finally:
        running.cancel()
        await asyncio.wait({running})
        for each in (ours, theirs):
            each.kill()
            each.wait()


@sync
async def test_output_is_cut_and_a_flood_is_killed(folder: Path) -> None:
    found = await look(script(folder, "head -c 100000 /dev/zero | tr '\\0' x"), folder)
    assert found.state == "passing" and found.output == "x" * 4096 + " ... (cut)"
    began_s = time.monotonic()
    found = await look(script(folder, "yes"), folder)
    assert found.state == "critical" and "wrote more than 1048576 bytes, killed" in found.output
    assert time.monotonic() - began_s < 9, "long before its time limit"


@sync
async def test_garbage_is_shown_as_text(folder: Path) -> None:
    found = await look(script(folder, "printf '\\377\\376\\000\\033[31mred'"), folder)
    assert found.state == "passing" and "red" in found.output and "\ufffd" in found.output


@sync
async def test_a_script_runs_within_its_limits(folder: Path) -> None:
    text = f"exec {sys.executable} -c 'print(len(bytearray(300 << 20)))'"
    found = await look(script(folder, text, memory_mb=128), folder)
    assert found.state != "passing" and "MemoryError" in found.output
    assert (await look(script(folder, text, memory_mb=1024), folder)).state == "passing"
    found = await look(script(folder, f"head -c 20000000 /dev/zero > {folder}/big; exit 2"), folder)
    assert (folder / "big").stat().st_size <= 10 << 20


def allow(path: Path, mode: int) -> None:
    path.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a check as another user")
@sync
async def test_a_script_runs_as_the_user_that_is_wanted(folder: Path, tmp_path_factory: Any) -> None:
    reachable = folder
    for parent in [folder, *folder.parents[:-2]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    found = await look(script(reachable, "id -un; id -G | wc -w; cat /etc/shadow", user="nobody"), reachable)
    assert found.output.startswith("nobody\n1\n") and "denied" in found.output
    assert 'no user "ghost"' in (await look(script(reachable, "true", user="ghost"), reachable)).output


@sync
async def test_a_program_that_others_may_write_or_that_is_not_there_is_not_run(folder: Path) -> None:
    check = script(folder, f"touch {folder}/ran")
    (folder / "check.sh").chmod(0o777)
    assert "may be written by others (mode 0777): not run" in (await look(check, folder)).output
    (folder / "check.sh").chmod(0o755)
    allow(folder, 0o777)
    assert "may be written by others" in (await look(check, folder)).output
    allow(folder, 0o755)
    if os.geteuid() == 0:
        os.chown(folder / "check.sh", 65534, 65534)
        assert "belongs to user 65534" in (await look(check, folder)).output
        os.chown(folder / "check.sh", 0, 0)
    assert not (folder / "ran").exists()
    (folder / "check.sh").chmod(0o644)
    assert "denied" in (await look(check, folder)).output.lower()
    (folder / "check.sh").unlink()
    assert "No such file" in (await look(check, folder)).output


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def zombies() -> list[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in children if not runs(int(pid))]


@sync
async def test_looks_leave_no_descriptor_and_no_process_behind(folder: Path) -> None:
    hang = script(folder, "sleep 3600", timeout_s=HANG_S)
    async with server(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        prober = Prober(folder, lambda job: None, lambda job, result, took_s: None)
        counts = []
        for _ in range(6):
            for number, check in enumerate(
                (http(port), http(1), hang, ping("tcp://127.0.0.1:1", timeout_s=HANG_S))
            ):
                await prober._result(Job(f"web-alpha-1/{number}", check, lambda: TARGET), TARGET)
            await asyncio.sleep(0.2)
            counts.append(descriptors())
        await prober._end_all()
    assert counts[-1] <= counts[1], counts
    assert not zombies()
