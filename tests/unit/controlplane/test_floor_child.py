"""One process under hft-floord: what cannot be started is said and tried again, and harms nothing else."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.floor import child_log
from controlplane.floor.child import DEATHS_SAID, Child
from controlplane.host import identity
from controlplane.resilience import backoff

SOON_S = 20.0


def test_a_child_that_cannot_be_started_is_said_and_started_when_it_can(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "run"
    child = Child(
        "store", ["sleep", "60"], tmp_path / "log", os.environ, said.append, lambda: None, folder=folder
    )

    async def case() -> None:
        task = asyncio.create_task(child.supervise())
        async with asyncio.timeout(SOON_S):
            while not said:  # noqa: ASYNC110  it sets no event
                await asyncio.sleep(0.01)
            assert "store: cannot be started" in said[0] and str(folder) in said[0] and not task.done()
            folder.mkdir()
            while child.process is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        child.stopping = True
        os.kill(child.process.pid, 9)
        await asyncio.wait_for(task, SOON_S)

    asyncio.run(case())


made: list[Child] = []


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """What a test has started does not outlive it, also where it fails."""
    yield
    for each in made:
        if each.process is not None and identity.runs(each.process):
            os.kill(each.process.pid, 9)
    made.clear()


def child(tmp_path: Path, said: list[str], command: list[str] | None = None) -> Child:
    log = tmp_path / "log"
    one = Child("agent", command or ["sleep", "60"], log, os.environ, said.append, lambda: None)
    made.append(one)
    return one


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON_S):
        while not what():  # noqa: ASYNC110  it sets no event
            await asyncio.sleep(0.01)


def test_without_a_descriptor_to_watch_it_a_child_is_not_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    one, tries = child(tmp_path, said), []

    def none_left(pid: int, flags: int = 0) -> int:
        tries.append(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    async def case() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", none_left)
            task = asyncio.create_task(one.supervise())
            await until(lambda: len(tries) > 5)
            assert one.starts == 1 and len(said) == 1 and "Too many open files" in said[0]
        await until(lambda: len(said) == 2)
        assert "over" in said[1] and one.starts == 1 and one.process is not None
        os.kill(one.process.pid, 9)
        await until(lambda: one.starts == 2)
        one.stopping = True
        os.kill(one.process.pid, 9)
        await asyncio.wait_for(task, SOON_S)

    asyncio.run(case())


def test_a_log_that_cannot_be_opened_costs_the_log(tmp_path: Path) -> None:
    said: list[str] = []
    one = child(tmp_path, said, ["sh", "-c", "echo lost; exec sleep 60"])
    (tmp_path / "log").mkdir()
    one.start()
    assert one.process is not None and said[0].startswith("log of agent: cannot be opened")
    os.kill(one.process.pid, 9)
    (tmp_path / "log").rmdir()
    one.start()
    assert said[1].startswith("log of agent: over") and len(said) == 2
    os.kill(one.process.pid, 9)


def test_one_that_dies_again_and_again_is_said_a_few_times_and_then_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    one = child(tmp_path, said, ["false"])

    async def case() -> None:
        task = asyncio.create_task(one.supervise())
        await until(lambda: one.starts > 20)
        task.cancel()

    monkeypatch.setattr(
        backoff.Restarts, "died", lambda self, lived_s: (backoff.Restarts(self.count + 1), 0.0)
    )
    asyncio.run(case())
    assert all("started again at once" in line for line in said) and len(said) == DEATHS_SAID + 1
    assert said[-1].startswith("agent dies again and again: pid ")


def test_a_log_is_copied_and_cut_while_its_child_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_log, "LOG_BYTES_MAX", 1000)
    said: list[str] = []
    one = child(tmp_path, said, ["sh", "-c", "while echo 0123456789; do sleep 0.01; done"])
    one.look_after_log()
    one.start()

    async def case() -> None:
        await until(lambda: one.log.stat().st_size > 1000)
        one.look_after_log()
        assert (tmp_path / "log.1").stat().st_size > 1000
        await until(lambda: 0 < one.log.stat().st_size < 1000)
        assert one.log.read_bytes().startswith(b"0123456789"), "no hole in front"

    asyncio.run(case())
    assert one.process is not None and not said
    os.kill(one.process.pid, 9)


CHATTER = "n=0; while true; do n=$((n+1)); echo line $n; sleep 0.005; done"


def size_of(path: Path) -> int:
    return path.stat().st_size


def numbers(path: Path) -> list[int]:
    """Of the whole lines."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [int(line.split()[1]) for line in whole.splitlines()]


@pytest.mark.parametrize("how", ["removed", "renamed", "renamed, and another made"])
def test_a_log_that_loses_its_name_is_begun_anew_without_a_line_lost(tmp_path: Path, how: str) -> None:
    said: list[str] = []
    one = child(tmp_path, said, ["sh", "-c", CHATTER])
    one.start()
    aside = tmp_path / "log-20260101"

    async def case() -> None:
        await until(lambda: len(numbers(one.log)) > 5)
        one.look_after_log()
        seen = numbers(one.log)
        if how == "removed":
            one.log.unlink()
        else:
            one.log.rename(aside)
        if how.endswith("made"):
            one.log.touch()
        for _ in range(3):
            before = len(numbers(one.log)) if one.log.exists() else 0

            def more(before: int = before) -> bool:
                one.look_after_log()
                return one.log.exists() and len(numbers(one.log)) > before

            await until(more)
        again = Child("agent", ["x"], one.log, {}, said.append, lambda: None)
        again.process = one.process  # another hft-floord, which has adopted it
        await asyncio.sleep(0.05)
        again.look_after_log()
        found = numbers(one.log)
        assert found == list(range(found[0], found[-1] + 1)), "each line once, also over another hft-floord"
        assert found[0] <= seen[-1] + 1

    asyncio.run(case())
    assert one.process is not None and not said
    os.kill(one.process.pid, 9)


def test_what_a_nameless_log_holds_is_bounded_and_the_new_one_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_log, "LOG_BYTES_MAX", 2000)
    one = child(tmp_path, [], ["sh", "-c", "while echo 0123456789; do sleep 0.001; done"])
    one.start()
    assert one.process is not None
    held = Path(f"/proc/{one.process.pid}/fd/1")

    async def case() -> None:
        await until(lambda: one.log.stat().st_size > 100)
        one.look_after_log()
        one.log.unlink()
        rotated, cut, before = False, False, 0
        async with asyncio.timeout(SOON_S):
            while not (rotated and cut):
                one.look_after_log()
                rotated = rotated or (tmp_path / "log.1").exists()
                cut, before = cut or size_of(held) < before, size_of(held)
                await asyncio.sleep(0.01)

    asyncio.run(case())
    os.kill(one.process.pid, 9)


def test_the_last_words_of_a_child_whose_log_was_removed_are_kept(tmp_path: Path) -> None:
    one = child(tmp_path, [], ["sh", "-c", "echo first; read ignored < go; echo 'no space left'"])
    one.folder = tmp_path
    os.mkfifo(tmp_path / "go")
    one.start()

    async def case() -> None:
        await until(lambda: b"first" in one.log.read_bytes())
        one.look_after_log()
        one.log.unlink()
        (tmp_path / "go").write_text("now\n")
        assert one.process is not None
        before = one.process
        await until(lambda: not identity.runs(before))
        one.command = ["echo", "second"]
        one.start()
        await until(lambda: one.log.read_bytes() == b"no space left\nsecond\n")

    asyncio.run(case())


def test_a_new_log_that_cannot_be_made_is_said_once_and_made_when_it_can(tmp_path: Path) -> None:
    said: list[str] = []
    one = child(tmp_path, said, ["sh", "-c", CHATTER])
    one.start()

    async def case() -> None:
        await until(lambda: len(numbers(one.log)) > 5)
        one.look_after_log()
        one.log.unlink()
        one.log.mkdir()
        for _ in range(3):
            await asyncio.sleep(0.02)
            one.look_after_log()
        assert len(said) == 1 and said[0].startswith("log of agent: cannot be rotated or begun anew")
        one.log.rmdir()
        one.look_after_log()
        found = numbers(one.log)
        assert found == list(range(found[0], found[-1] + 1)) and said[1].startswith("log of agent: over")

    asyncio.run(case())
    assert one.process is not None
    os.kill(one.process.pid, 9)
