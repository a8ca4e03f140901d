"""What whoever is on call meets: a floor to look at without ending it, processes with names, agents that
hang, a floor that ends under one's eyes, and one that was brought up from an odd shell.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.floor import folders, processes
from controlplane.host import identity
from tests.integration.test_at_a_terminal import at_a_terminal
from tests.support import floors

pytestmark = pytest.mark.timeout(300)
PATIENCE_S = 60


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        yield one


def started(floor: floors.Floor, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*floors.HFTCTL, *words],
        env=floor.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_up_looks_on_and_its_end_is_not_the_floor_s(
    floor: floors.Floor, number: signal.Signals, code: int
) -> None:
    before = floor.pids()
    with started(floor, "up") as second:
        try:
            assert second.stdout is not None
            shown = next((line for line in second.stdout if "bookd-alpha-1: running" in line), None)
            second.send_signal(number)
            said, _ = second.communicate(timeout=PATIENCE_S)
        finally:
            second.kill()
    assert shown and second.returncode == code
    assert said.rstrip().endswith(f"the floor in {floor.site_dir} goes on (hftctl down ends it)")
    assert floor.healthy() and floor.pids() == before


def test_the_screen_of_a_second_up_says_what_its_ctrl_c_does(floor: floors.Floor) -> None:
    with at_a_terminal(floor, "up") as terminal:
        floors.wait_for(
            "the floor drawn", lambda: terminal.shows("site lab", "ends the looking on, not the floor")
        )
        terminal.ctrl_c()
        floors.wait_for("its end", terminal.ended)
        assert terminal.process.returncode == 130 and terminal.shows("goes on (hftctl down ends it)")
    assert floor.healthy()


def of_floor(floor: floors.Floor) -> dict[int, str]:
    """Command lines by pid of all that carries the floor's mark."""
    found = processes.marked(folders.Folders(floor.site_dir))
    return {known.pid: known.instance for known in found}


def test_every_process_of_a_floor_has_a_name_of_its_own_and_keeps_the_mark(floor: floors.Floor) -> None:
    instances = set(floor.pids())
    hosts = ("alpha", "beta")
    wanted = {"hft-floord", "hft-controld"} | {f"hft-shim {each}" for each in instances}
    wanted |= {f"{kind} {host}@lab" for kind in ("hft-agentd", "hft-keeperd") for host in hosts}
    wanted |= {f"{each}@lab" for each in instances}
    lines = [line for pid, line in of_floor(floor).items() if pid != floor.store_pid()]
    found = {each for each in wanted for line in lines if line == each or line.startswith(f"{each} ")}
    assert found == wanted and len(lines) == len(wanted)
    for pid, instance in {pid: name for name, pid in floor.pids().items()}.items():
        assert Path(f"/proc/{pid}/comm").read_text() == f"{instance}@lab"[:15] + "\n"


ASKING = ["status", "services", "endpoints omsd", "health", "host list", "events", "history omsd"]
ASKING += ["logs auditd-beta-1", "logs simd-alpha-1"]


def test_an_agent_that_hangs_costs_no_verb_anything_and_two_are_said_at_once(floor: floors.Floor) -> None:
    agents = {host: floor.holder(host, "agent") for host in ("alpha", "beta")}
    try:
        for host in agents:
            os.kill(agents[host], signal.SIGSTOP)
            for verb in ASKING:
                began = time.monotonic()
                asked = floor.run(*verb.split(), "--timeout", str(PATIENCE_S))
                assert asked.returncode in (0, 1) and asked.stdout, (host, verb, asked.stderr)
                assert time.monotonic() - began < PATIENCE_S / 2, (host, verb)
            os.kill(agents[host], signal.SIGCONT)
        for pid in agents.values():
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        asked = floor.run("status", "--timeout", str(PATIENCE_S))
        assert asked.returncode == 3 and time.monotonic() - began < PATIENCE_S / 2
        for host, pid in agents.items():
            assert f"{host}: its process is stopped (kill -CONT {pid} lets it go on)" in asked.stderr
    finally:
        for pid in agents.values():
            os.kill(pid, signal.SIGCONT)
    floors.wait_for("healthy", floor.healthy)


def test_a_verb_for_another_user_s_floor_says_whose_it_is(floor: floors.Floor) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may be somebody else")
    nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+dac_read_search",
    ]
    # It may read what is here: the tests' own interpreter may lie in root's home.
    command = [*nobody, "--ambient-caps=+dac_read_search", *floors.HFTCTL]
    verbs = ["status", "events", "logs floord", "up --detach", "down", "audit verify", "orders"]
    verbs += ["diff -f /etc/passwd", "fence show omsd", f"status --site-dir {floor.site_dir}"]
    for verb in verbs:
        asked = subprocess.run(
            [*command, *verb.split()], env=floor.environment, capture_output=True, text=True, check=False
        )
        assert asked.returncode == 2 and "belongs to user root, and you are user nobody" in asked.stderr, verb
        assert asked.stderr.count("\n") == 1 and asked.stdout == ""
    assert floor.healthy()


def test_down_waits_for_no_agent_that_hangs_and_ends_all_in_order() -> None:
    with floors.floor() as floor:
        found = of_floor(floor)
        agents = [floor.holder(host, "agent") for host in ("alpha", "beta")]
        for pid in [*agents, floor.holder("beta", "keeper")]:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        down = floor.run("down", "--timeout", str(4 * PATIENCE_S))
        assert down.returncode == 0 and time.monotonic() - began < 2 * PATIENCE_S, down.stderr
        assert not any(identity.start_time(pid) for pid in found)
        log = (floor.site_dir / "logs" / "keeper-beta.log").read_text()
        assert log.splitlines()[-1].endswith("keeper.stopped"), "it went on, to end in order"


FOLLOWED = ["events -f", "logs -f omsd-alpha-1", "logs -f floord", "logs -f agent-beta"]


def test_what_follows_a_floor_ends_with_it_and_its_files_are_read_afterwards(floor: floors.Floor) -> None:
    followers = {verb: started(floor, *verb.split()) for verb in FOLLOWED}
    try:
        for verb, follower in followers.items():
            assert follower.stdout is not None and follower.stdout.readline(), verb
        assert floor.run("down").returncode == 0
        for verb, follower in followers.items():
            said, _ = follower.communicate(timeout=PATIENCE_S)
            assert follower.returncode == 0, (verb, said)
            assert said.endswith(f"hftctl: the floor in {floor.site_dir} was taken down\n"), (verb, said)
            assert "agent.stopped" in said or not verb.startswith("events"), said
    finally:
        for follower in followers.values():
            follower.kill()
            follower.wait()
    for verb, shown in {
        "events": "agent.stopped",
        "history omsd": "first",
        "logs omsd-alpha-1": "stopped",
        "logs floord": "down",
    }.items():
        asked = floor.run(*verb.split())
        assert asked.returncode == 0 and shown in asked.stdout and "no floor runs in" in asked.stderr, verb


def odd_shell() -> None:
    """SIGTERM blocked, SIGCHLD and SIGUSR2 ignored, nice, on one core, with few descriptors, open to all."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    for number in (signal.SIGCHLD, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    if os.geteuid() == 0:
        os.nice(5)


def test_a_floor_from_an_odd_shell_is_as_any_other_and_hears_down() -> None:
    with floors.floor(bring_up=False) as floor:
        up = subprocess.run(
            [*floors.HFTCTL, "up", "--detach"],
            env=floor.environment,
            preexec_fn=odd_shell,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert up.returncode == 0, up.stdout + up.stderr
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        found = of_floor(floor)
        assert len(found) > 20
        for pid, line in found.items():
            told = dict(re.findall(r"^(\w+):\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE))
            usr2 = 1 << (signal.SIGUSR2 - 1)
            chld = 1 << (signal.SIGCHLD - 1)
            assert not int(told["SigBlk"], 16) & 1 << (signal.SIGTERM - 1), line
            assert not int(told["SigIgn"], 16) & (usr2 | chld) and told["Umask"] == "0077", line
            assert os.sched_getaffinity(pid) == os.sched_getaffinity(1), line
            assert os.getpriority(os.PRIO_PROCESS, pid) <= 0, line
            assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == hard, line
        known = [identity.identify(line, pid) for pid, line in found.items()]
        assert floor.run("down").returncode == 0
        assert not any(each is not None and identity.runs(each) for each in known)
        for instance in ("omsd-alpha-1", "auditd-beta-1", "simd-alpha-1"):
            log = (floor.site_dir / "logs" / f"{instance}.log").read_text()
            assert log.splitlines()[-1].endswith(f"{instance} stopped"), "in order, and not by SIGKILL"
