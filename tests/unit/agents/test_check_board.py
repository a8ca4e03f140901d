"""How checks stand on a host's board: events once, a registration that goes and comes back, terms that
change; and the prober, in which what hangs delays nobody else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents import keeper_table
from agents.bus import Reported
from agents.checks import Board, Subject, Target, blocking, board, prober
from agents.checks.target import Result, cut
from agents.paths import Paths
from agents.supervisor.program import of_spec
from agents.supervisor.runner import Running
from agents.supervisor.states import State
from agents.supervisor.supervisor import Desired, Instance
from controlplane.errors import InvalidInput
from controlplane.health import Finding
from controlplane.model import Mode, Process, ServiceSpec, Slot, checks
from hftd.wire import codec, control

TARGET = Target("omsd", "omsd-alpha-1", "alpha")
PORT = checks.TcpCheck(name="port", address="a:1", failures=2, deregister_after_s=90)
WELL = (Finding("", "passing", "pid 7 runs"), Finding("", "passing", "ready"))


class Host:
    """A board whose results come from the test, and whose monotonic clock the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *own: checks.Check) -> None:
        self.now_s, self.told, self.changes = 1000.0, list[tuple[str, str]](), 0
        self.known: tuple[Finding, Finding] | None = WELL
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self.board = Board(
            Path("/nonexistent"),
            report=lambda kind, **fields: self.told.append((kind, fields["check"])),
            changed=self._changed,
            wall_ns=lambda: int(self.now_s * 1e9),
            known=lambda name: self.known,
            service=lambda name: ("passing", name),
        )
        self.want(*own)

    def _changed(self) -> None:
        self.changes += 1

    def want(self, *own: checks.Check, ours: bool = True) -> None:
        self.board.want([Subject(TARGET, own, ours)])

    def result(self, name: str, state: checks.State, output: str = "") -> None:
        kept = self.board._kept[TARGET.instance][name]
        self.board._taken(kept.job, Result(state, output), 0.01)

    def row(self, name: str) -> board.Row:
        return next(row for row in self.board.rows() if row.check == name)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Host]:
    return lambda *own: Host(monkeypatch, *own)


def test_a_change_is_an_event_once_and_the_first_good_result_is_none(host: Callable[..., Host]) -> None:
    found = host(PORT)
    for state in ("passing", "passing", "critical", "critical", "critical", "passing"):
        found.result("port", state)
    assert found.told == [("check.critical", "port"), ("check.passing", "port")]


def test_the_health_is_the_worst_of_all_and_tells_who_must_hear_it(host: Callable[..., Host]) -> None:
    found = host(PORT)
    assert found.board.judged(TARGET.instance, *WELL) == ("warning", "check port: not checked yet")
    found.result("port", "passing")
    assert found.board.judged(TARGET.instance, *WELL) == ("passing", "")
    assert found.board.health_of(TARGET.instance) == "passing"
    before = found.changes
    found.result("port", "critical")
    assert found.changes == before, "one of two failures changes nothing"
    found.result("port", "critical", "refused")
    assert found.changes == before + 1 and found.board.health_of(TARGET.instance) == "critical"
    dead = (Finding("", "critical", "exit status 1"), Finding("", "critical", "no process runs"))
    assert found.board.judged(TARGET.instance, *dead) == ("critical", "exit status 1; check port: refused")


def test_critical_for_long_enough_the_registration_goes_and_it_comes_back_with_the_check(
    host: Callable[..., Host],
) -> None:
    found = host(PORT)
    for _ in range(2):
        found.result("port", "critical")
    found.now_s += 89
    found.result("port", "critical")
    assert not found.board.withdrawn(TARGET.instance)
    found.now_s += 2
    before = found.changes
    found.result("port", "critical")
    assert found.board.withdrawn(TARGET.instance) and found.changes == before + 1
    found.result("port", "warning")
    found.result("port", "passing")
    assert not found.board.withdrawn(TARGET.instance)
    assert [kind for kind, _ in found.told] == [
        *(
            "check.critical",
            "registration.withdrawn",
            "check.warning",
            "check.passing",
            "registration.restored",
        )
    ]


def test_a_registration_comes_back_when_the_check_that_took_it_out_is_wanted_no_more_or_may_not(
    host: Callable[..., Host],
) -> None:
    never = checks.TcpCheck(name="port", address="a:1", failures=2, deregister_after_s=0)
    for changed in ((), (never,)):
        found = host(PORT)
        for _ in range(2):
            found.result("port", "critical")
        found.now_s += 91
        found.result("port", "critical")
        assert found.board.withdrawn(TARGET.instance)
        before = found.changes
        found.want(*changed)
        assert not found.board.withdrawn(TARGET.instance) and found.changes > before
        assert found.told[-1] == ("registration.restored", "port")


def test_a_member_of_a_group_stays_registered_however_long_a_check_is_critical(
    host: Callable[..., Host],
) -> None:
    found = host()
    found.board.want([Subject(TARGET, (PORT,), led=True)])
    for _ in range(5):
        found.result("port", "critical")
        found.now_s += 1000
    assert found.board.health_of(TARGET.instance) == "critical"
    assert not found.board.withdrawn(TARGET.instance)
    assert [kind for kind, _ in found.told] == ["check.critical"]


def test_the_keeper_is_told_health_and_what_is_not_to_be_registered() -> None:
    process = Process("omsd-alpha-1", "boot", 7, 70)
    spec = ServiceSpec("omsd", "omsd", Mode.SINGLETON, ("alpha",))
    instance = Instance(
        Slot("omsd-alpha-1", "omsd", "alpha"), Desired(spec, 1, of_spec(spec)), state=State.RUNNING
    )
    instance.running = Running(process, process, Path(), "", 1, 0, 1, (), -1)
    said = control.Status(codec.VERSION, 1, 0, process.instance, None, True, "", "", 0, {}, {}, {}, [], True)
    report = Reported(process, "omsd", "0.1.0", {}, b"", said, 100.0)
    paths = Paths("lab", "alpha", Path("/s"), Path("/r"))

    def registered(health: Any) -> Any:
        table = keeper_table.table(
            [(instance, report)], paths, address="a", port=1, profile="default", leaving=False, health=health
        )
        return table.instances[0].registration

    assert registered(lambda name: "warning").health == "warning"
    assert registered(lambda name: None) is None
    instance.desired = Desired(replace(spec, mode=Mode.ACTIVE_STANDBY), 1, of_spec(spec))
    assert registered(lambda name: None).health == "critical", "fencing finds it there"


def test_process_and_heartbeat_are_as_of_now_and_their_terms_can_be_others(host: Callable[..., Host]) -> None:
    found = host()
    assert [row.check for row in found.board.rows()] == ["process", "heartbeat"]
    found.known = (WELL[0], Finding("", "critical", "no status for 4 s"))
    assert found.row("heartbeat").state == "critical", "no look is waited for"
    assert found.told == [], "instance events and reasons tell of these"
    found.want(checks.HeartbeatCheck(name="beats", failures=3, deregister_after_s=5))
    assert [row.check for row in found.board.rows()] == ["process", "beats"]
    assert found.row("beats").state == "warning"
    for _ in range(3):
        found.result("beats", "critical", "no status for 4 s")
    assert found.board.judged(TARGET.instance, *found.known) == ("critical", "check beats: no status for 4 s")


def test_what_is_only_registered_has_no_process_and_no_heartbeat(host: Callable[..., Host]) -> None:
    found = host()
    found.known = None
    found.want(PORT, ours=False)
    assert [row.check for row in found.board.rows()] == ["port"]
    found.result("port", "passing")
    assert found.board.health_of(TARGET.instance) == "passing"


def test_a_result_of_a_check_that_is_wanted_no_more_is_dropped(host: Callable[..., Host]) -> None:
    found = host(PORT)
    job = found.board._kept[TARGET.instance]["port"].job
    found.want()
    found.board._taken(job, Result("critical", ""), 0.0)
    found.board.want([])
    found.board._taken(job, Result("critical", ""), 0.0)
    assert found.board.rows() == [] and found.told == []


def test_a_ttl_is_called_by_its_own_name_only(host: Callable[..., Host]) -> None:
    found = host(PORT, checks.TtlCheck(name="batch", ttl_s=5))
    found.board.call(TARGET.instance, "batch", "passing", "x" * 9000)
    assert found.row("batch").state == "passing" and len(found.row("batch").output) < 4200
    for name, state in (("port", "passing"), ("nobody", "passing"), ("batch", "fine")):
        with pytest.raises(InvalidInput):
            found.board.call(TARGET.instance, name, state, "")
    found.now_s += 4.9
    job = found.board._kept[TARGET.instance]["batch"].job
    assert found.board._within(job) is None
    found.now_s += 0.2
    assert found.board._within(job) == Result("critical", "no call for 5 s, wanted within 5 s")


def test_placeholders_are_filled_in_once() -> None:
    target = Target("svc", "{host}", "alpha", "10.0.0.1", 8001)
    assert (
        target.filled("{instance} {address}:{health_port} {service} {other}")
        == "{host} 10.0.0.1:8001 svc {other}"
    )


def test_output_is_cut_and_text_whatever_it_is() -> None:
    assert cut(b"\xff" * 9000) == "\ufffd" * 4096 + " ... (cut)"
    assert cut(b" ok \n") == "ok"


# --- the prober --------------------------------------------------------------------------------------------


class Probed(prober.Prober):
    """Its looks hang, fail or pass by the name of the check."""

    def __init__(self) -> None:
        self.results: dict[str, list[Result]] = {}
        self.at_once = self.most = 0
        super().__init__(Path("/nonexistent"), lambda job: None, self._note)

    def _note(self, job: prober.Job, result: Result, took_s: float) -> None:
        self.results.setdefault(job.check.name, []).append(result)

    async def _probe(self, job: prober.Job, target: Target) -> Result:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if job.check.name.startswith("hang"):
                await asyncio.sleep(3600)
            if job.check.name.startswith("odd"):
                raise KeyError("what nobody expected")
        finally:
            self.at_once -= 1
        return Result("passing", "")


def job(name: str, **fields: Any) -> prober.Job:
    check = checks.TcpCheck(name=name, address="a:1", **{"interval_s": 0.1, "timeout_s": 0.2, **fields})
    return prober.Job(f"i/{name}", check, lambda: TARGET)


async def probing(found: Probed, jobs: list[prober.Job], enough: Callable[[], bool]) -> None:
    running = asyncio.create_task(found.run())
    for each in jobs:
        found.add(each)
    async with asyncio.timeout(30):
        while not enough():  # noqa: ASYNC110  the condition is the test's
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait({running})
    assert found.at_once == 0, "what ran has ended with it"


def test_hundreds_of_checks_that_hang_delay_no_other() -> None:
    async def run() -> None:
        found = Probed()
        hanging = [job(f"hang{n}", timeout_s=30.0) for n in range(prober.PLACES - 50)]
        await probing(found, [*hanging, job("well")], lambda: len(found.results.get("well", ())) >= 5)
        assert {each.state for each in found.results["well"]} == {"passing"}
        assert not any(name.startswith("hang") for name in found.results)

    asyncio.run(run())


def test_those_known_to_hang_share_a_part_of_the_places() -> None:
    async def run() -> None:
        found = Probed()
        hanging = [job(f"hang{n}", timeout_s=30.0) for n in range(prober.PLACES + 100)]
        for each in hanging:
            each.slow = True
        await probing(found, [*hanging, job("well")], lambda: len(found.results.get("well", ())) >= 5)
        assert prober.PLACES_OF_SLOW <= found.most <= prober.PLACES_OF_SLOW + 1

    asyncio.run(run())


def test_one_that_ran_into_its_deadline_is_slow_until_it_does_not() -> None:
    async def run() -> None:
        found = Probed()
        hanging, well = job("hang"), job("well")
        well.slow = True
        await probing(found, [hanging, well], lambda: len(found.results) == 2)
        assert (hanging.slow, well.slow) == (True, False)
        assert found.results["hang"][0] == Result("critical", "no connection within 0.2 s")

    asyncio.run(run())


def test_a_look_that_raises_what_nobody_expected_is_critical_and_the_others_go_on() -> None:
    async def run() -> None:
        found = Probed()
        await probing(
            found, [job("odd"), job("well")], lambda: min(map(len, found.results.values()), default=0) >= 3
        )
        assert found.results["odd"][2] == Result("critical", "unexpected KeyError: 'what nobody expected'")

    asyncio.run(run())


def test_a_check_that_is_dropped_is_not_run_again_and_its_look_ends() -> None:
    async def run() -> None:
        found = Probed()
        hanging = job("hang", timeout_s=30.0)

        def enough() -> bool:
            if found.at_once:
                found.drop(hanging)
            return len(found.results.get("well", ())) >= 5

        await probing(found, [hanging, job("well")], enough)
        assert "hang" not in found.results

    asyncio.run(run())


def test_a_check_runs_once_at_a_time_and_an_interval_apart() -> None:
    async def run() -> None:
        found = Probed()
        began_s = time.monotonic()
        await probing(found, [job("well")], lambda: len(found.results.get("well", ())) >= 10)
        assert time.monotonic() - began_s > 0.6
        assert found.most == 1

    asyncio.run(run())


def test_a_call_that_does_not_come_back_costs_one_thread_and_the_next_look_says_so() -> None:
    async def run() -> None:
        import threading

        calls, stop = blocking.Calls(), threading.Event()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await calls.run("i/f", stop.wait)
        with pytest.raises(blocking.Stuck, match="has not come back"):
            await calls.run("i/f", stop.wait)
        assert await calls.run("i/other", lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            await calls.run("i/other", lambda: 1 // 0)
        stop.set()
        async with asyncio.timeout(10):
            while calls._running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await calls.run("i/f", lambda: 4) == 4

    asyncio.run(run())
