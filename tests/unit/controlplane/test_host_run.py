"""One way to run until signalled, with real processes: the exit codes, the lines, and the bounds."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAD = """
import asyncio, sys, time
import anyio
from controlplane.errors import InUse, HftctlError
from controlplane.host import log, run

async def serve(stop):
"""
TAIL = """
sys.exit(run.until_signalled("thing", serve, **OPTIONS))
"""


class Process:
    def __init__(self, body: str, options: str = "", environment: dict[str, str] | None = None) -> None:
        source = HEAD + textwrap.indent(textwrap.dedent(body), "    ") + f"\nOPTIONS = dict({options})" + TAIL
        self.child = subprocess.Popen(
            [sys.executable, "-c", source],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def wait_for(self, event: str) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            if f" {event}" in line:
                return
        raise AssertionError(f"{event} is never said")

    def end(self) -> tuple[int, list[str], str]:
        """Exit code, the lines from now on (less time and name), and standard error."""
        out, err = self.child.communicate(timeout=30)
        return self.child.returncode, [line.partition("Z ")[2] for line in out.splitlines()], err


@pytest.fixture
def started() -> Iterator[list[Process]]:
    all_: list[Process] = []
    yield all_
    for each in all_:
        if each.child.poll() is None:
            each.child.kill()
            each.child.communicate()


def start(started: list[Process], body: str, options: str = "", **environment: str) -> Process:
    started.append(Process(body, options, environment or None))
    return started[-1]


def test_it_may_open_all_files_that_the_hard_limit_allows_and_writes_for_its_user_alone(
    started: list[Process], tmp_path: Path
) -> None:
    path, before = tmp_path / "written", resource.getrlimit(resource.RLIMIT_NOFILE)
    body = f"""
    import resource
    from pathlib import Path
    Path({str(path)!r}).write_text("x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if soft == hard == {before[1]} else 1
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        process = start(started, body)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert process.end() == (0, [], "")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_it_returns_is_the_exit_code(started: list[Process]) -> None:
    assert start(started, "return 3").end() == (3, [], "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels_what_runs_and_closes_what_is_open(started: list[Process], number: int) -> None:
    process = start(
        started,
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever, name="work")
                log.info("up")
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            log.info("closed")
        """,
    )
    process.wait_for("up")
    process.child.send_signal(number)
    name = signal.Signals(number).name
    assert process.end() == (0, [f"INFO thing process.stopping signal='{name}'", "INFO thing closed"], "")


def test_a_signal_during_start_up_is_not_lost(started: list[Process]) -> None:
    process = start(
        started,
        """
        log.info("starting")
        time.sleep(0.5)  # imports, a disk: the loop does not run
        await stop.wait()
        log.info("in order", asked=stop.asked, signal=stop.signal)
        return 0
        """,
        "orderly_s=20",
    )
    process.wait_for("starting")
    process.child.terminate()
    code, lines, _ = process.end()
    assert code == 0 and lines[-1] == "INFO thing in order asked=True signal='SIGTERM'"


def test_a_start_up_that_hangs_is_cancelled_after_its_time(started: list[Process]) -> None:
    process = start(started, "log.info('starting')\nawait asyncio.Event().wait()", "orderly_s=0.1")
    process.wait_for("starting")
    process.child.terminate()
    assert process.end()[0] == 0


def test_a_second_signal_ends_the_orderly_part_and_not_the_closing(started: list[Process]) -> None:
    process = start(
        started,
        """
        try:
            await stop.wait()
            log.info("in order")
            await asyncio.Event().wait()
        finally:
            log.info("closing")
            await asyncio.sleep(0.3)
            log.info("closed")
        """,
        "orderly_s=60",
    )
    process_ready(process)
    process.child.terminate()
    process.wait_for("in order")
    process.child.terminate()
    process.wait_for("closing")
    process.child.terminate()
    code, lines, _ = process.end()
    assert code == 0 and lines[-1] == "INFO thing closed"


def process_ready(process: Process) -> None:
    """Its handlers are in place: the kernel says which signals it catches."""
    mask = 1 << (signal.SIGTERM - 1)
    while True:
        status = Path(f"/proc/{process.child.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) & mask:
            return


@pytest.mark.parametrize(
    "hang",
    ["await asyncio.sleep(60)", "time.sleep(60)", "asyncio.create_task(asyncio.to_thread(time.sleep, 60))"],
)
def test_a_clean_up_that_hangs_is_ended_and_said(started: list[Process], hang: str) -> None:
    """In a task, in the loop itself, in a thread."""
    process = start(
        started,
        f"""
        log.info("up")
        try:
            await asyncio.Event().wait()
        finally:
            {hang}
        """,
        "clean_up_s=0.3",
    )
    process.wait_for("up")
    process.child.terminate()
    code, lines, _ = process.end()
    assert code == 1 and lines[-1].startswith("ERROR thing process.stuck waited_s=0.3 tasks=[")


def test_an_error_of_ours_is_its_text_and_its_exit_code(started: list[Process]) -> None:
    process = start(started, "raise InUse('port 80: taken')")
    assert process.end() == (
        2,
        ["ERROR thing process.failed reason='port 80: taken'"],
        "thing: port 80: taken\n",
    )


def test_a_task_that_fails_ends_the_others_and_is_said_with_its_traceback(started: list[Process]) -> None:
    process = start(
        started,
        """
        async def fails():
            raise ValueError("unexpected")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever, name="work")
                tasks.start_soon(fails, name="fails")
        finally:
            log.info("closed")
        """,
    )
    code, lines, err = process.end()
    assert code == 1 and lines[0] == "INFO thing closed" and len(lines) == 2
    assert lines[1].startswith("ERROR thing process.failed reason='ValueError: unexpected' traceback=")
    assert "in fails" in lines[1] and err == "thing: ValueError: unexpected\n"


def test_of_several_errors_each_is_said_and_one_that_is_not_ours_makes_it_exit_code_1(
    started: list[Process],
) -> None:
    process = start(started, "raise ExceptionGroup('both', [InUse('a'), OSError(28, 'No space left', '/x')])")
    code, lines, _ = process.end()
    assert code == 1 and lines[0] == "ERROR thing process.failed reason='a'"
    assert "OSError: [Errno 28] No space left: '/x'" in lines[1] and len(lines) == 2


def test_a_level_that_is_none_stops_it_before_it_starts(started: list[Process]) -> None:
    process = start(started, "return 0", HFT_LOG_LEVEL="loud")
    assert process.end() == (
        2,
        [],
        'thing: HFT_LOG_LEVEL "loud": not a level (debug, info, warning, error)\n',
    )
