"""A services file that is wrong is refused as a whole before anything is started: exit 2, file, line and
field in one line a fault.

So are a tape that is not there, a port in use and a site folder in use. `hftctl` is run as a user runs it;
nothing may be left behind.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlplane.floor import folders
from tests.support import floors

pytestmark = pytest.mark.timeout(120)
LAB = Path(__file__).resolve().parents[2] / "inventory" / "lab" / "services.yml"


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[floors.Floor]:
    """Of a site folder that does not exist yet."""
    one = floors.Floor(tmp_path / "site")
    try:
        yield one
    finally:
        if one.site_dir.exists():
            one.run("down")


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def untouched(floor: floors.Floor) -> bool:
    site = folders.Folders(floor.site_dir)
    return (
        not floor.site_dir.exists()
        and not site.run_dir_wanted().exists()
        and floors.processes_of(floor.site_dir) == []
    )


def refused(floor: floors.Floor, *words: str) -> list[str]:
    done = floor.run("up", "--detach", *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not done.stdout, "nothing was begun"
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


Change = Callable[[str], str]


def with_field(field: str) -> Change:
    return lambda text: text.replace("    hosts: [alpha]\n", f"    hosts: [alpha]\n    {field}\n", 1)


CASES: dict[str, tuple[Change, str, str, str]] = {
    "an unknown daemon": (
        lambda text: text.replace("daemon: bookd", "daemon: bokd"),
        "bokd",
        r"services\[2\]\.daemon",
        "bookd",
    ),
    "a service twice": (
        lambda text: (
            text + "\n  - name: simd  # again\n    daemon: simd\n    mode: singleton\n    hosts: [beta]\n"
        ),
        "simd  # again",
        r"services\[9\]\.name",
        f"each service once (first on line {line_of(LAB.read_text(), '- name: simd')})",
    ),
    "an instance twice": (
        lambda text: text.replace("hosts: [alpha, beta]", "hosts: [alpha, alpha]"),
        "[alpha, alpha]",
        r"services\[5\]\.hosts\[1\]",
        "omsd-alpha-1 would be a duplicate instance",
    ),
    "an unknown field": (with_field("prio: 3"), "prio: 3", r"services\[0\]\.prio", "instances_per_host"),
    "a field twice": (with_field("hosts: [beta]"), "hosts: [beta]", r"services\[0\]\.hosts", "each key once"),
    "a CPU that does not exist": (
        with_field("cpus: [0, 4095]"),
        "4095",
        r"services\[0\]\.cpus\[1\]",
        "a CPU that exists; online here: ",
    ),
    "a host that does not exist": (
        lambda text: text.replace("hosts: [alpha]", "hosts: [gamma]", 1),
        "gamma",
        r"services\[0\]\.hosts\[0\]",
        "alpha",
    ),
    "a mode that the daemon cannot have": (
        lambda text: text.replace("mode: singleton", "mode: active_standby", 1),
        "active_standby",
        r"services\[0\]\.mode",
        "singleton (what simd can run as)",
    ),
    "a mode that does not fit the hosts": (
        lambda text: text.replace("hosts: [alpha]", "hosts: [alpha, beta]", 1),
        "[alpha, beta]",
        r"services\[0\]\.hosts",
        "one instance, as the mode is singleton",
    ),
    "a mode that there is not": (
        lambda text: text.replace("mode: singleton", "mode: solo", 1),
        "solo",
        r"services\[0\]\.mode",
        "singleton",
    ),
    "an unknown setting": (
        lambda text: text.replace("strategy: market_making", "strategy: market_making\n      sped: 3"),
        "sped: 3",
        r"services\[3\]\.settings\.sped",
        "order_notional",
    ),
    "a setting of the wrong type": (
        lambda text: text.replace("strategy: market_making", "strategy: market_making\n      skew_ppm: much"),
        "skew_ppm",
        r"services\[3\]\.settings\.skew_ppm",
        "a whole number",
    ),
    "a service that is not in the file": (
        lambda text: text.replace("strategy: market_making", "strategy: market_making\n      tops: bookie"),
        "bookie",
        r"services\[3\]\.settings\.tops",
        "a service of this file that runs bookd (bookd)",
    ),
    "no YAML": (
        lambda text: text.replace("strategy: market_making", "strategy: [market_making"),
        "  - name: riskd",
        "",
        "YAML",
    ),
    "no services": (lambda text: "", "", "services", "a list of services"),
    "a list at the top": (lambda text: "- a\n", "- a", "", "a mapping with the key services"),
    "an alias that holds itself": (
        lambda text: "services:\n  - name: &a [*a]\n",
        "- name",
        "",
        "an alias that holds itself",
    ),
    "no end of brackets": (lambda text: "services: " + "[" * 3000, "services", "", "a services file"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_file_is_refused_with_file_line_and_field_before_anything_starts(
    case: str, floor: floors.Floor, tmp_path: Path
) -> None:
    change, marked, field, wanted = CASES[case]
    text = change(LAB.read_text())
    assert text != LAB.read_text()
    file = tmp_path / "services.yml"
    file.write_text(text)
    (line,) = refused(floor, "--services", str(file))
    number = r"\d+" if case in ("no YAML", "an alias that holds itself") else str(line_of(text, marked))
    assert re.match(rf"hftctl: {re.escape(str(file))}:{number}: {field}", line), line
    assert wanted in line
    assert untouched(floor)


def test_every_fault_of_a_file_is_named_in_one_run_in_the_order_of_its_lines(
    floor: floors.Floor, tmp_path: Path
) -> None:
    text = (
        LAB.read_text()
        .replace("daemon: auditd", "daemon: audit")
        .replace("mode: singleton", "mode: solo", 1)
        .replace("[beta]", "[gamma]", 1)
    )
    file = tmp_path / "services.yml"
    file.write_text(text)
    lines = refused(floor, "--services", str(file))
    numbers = [int(line.split(":")[2]) for line in lines]
    assert numbers == sorted(line_of(text, part) for part in ("mode: solo", "[gamma]", "daemon: audit\n"))
    assert untouched(floor)


def test_a_file_that_cannot_be_read_as_text_is_named(floor: floors.Floor, tmp_path: Path) -> None:
    packed = tmp_path / "packed.yml"
    packed.write_bytes(b"\x1f\x8b\x00\xff")
    for path, why in (
        (tmp_path / "none.yml", "No such file"),
        (tmp_path, "Is a directory"),
        (packed, "not UTF-8 text (byte 1)"),
    ):
        (line,) = refused(floor, "--services", str(path))
        assert line.startswith(f"hftctl: {path}: ") and why in line
    assert untouched(floor)


def test_a_tape_that_is_not_there_is_named(floor: floors.Floor, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "fifo", "not a regular file"),
        (empty, "no capture in this folder (*.gz wanted)"),
    ):
        (line,) = refused(floor, "--tape", str(path))
        assert line == f"hftctl: --tape {path}: {why}"
    assert untouched(floor)


def test_options_that_make_no_sense_are_refused(floor: floors.Floor) -> None:
    (line,) = refused(floor, "--speed", "7")
    assert "command line: --speed: found" in line and "1, 10, max" in line
    assert untouched(floor)


def test_a_port_in_use_is_named(floor: floors.Floor) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (line,) = refused(floor, "--http-port", str(port))
    assert line == f"hftctl: port 127.0.0.1:{port}: Address already in use (choose another with --http-port)"
    assert untouched(floor)


def test_a_site_folder_that_somebody_else_has_locked_is_named_with_the_pid(floor: floors.Floor) -> None:
    floor.site_dir.mkdir()
    with (floor.site_dir / "floor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (line,) = refused(floor)
    assert (
        line.startswith(f"hftctl: site folder {floor.site_dir}: in use by pid {os.getpid()}")
        and "--site-dir" in line
    )
    assert [path.name for path in floor.site_dir.iterdir()] == ["floor.lock"]
    assert floors.processes_of(floor.site_dir) == []


def test_a_site_folder_that_is_a_file_is_named(floor: floors.Floor) -> None:
    floor.site_dir.write_text("mine")
    try:
        (line,) = refused(floor)
        assert line.startswith(f"hftctl: site folder {floor.site_dir}: ") and "--site-dir" in line
        assert floor.site_dir.read_text() == "mine"
    finally:
        floor.site_dir.unlink()


def test_a_running_floor_refuses_a_wrong_file_a_wrong_tape_and_another_site_and_trades_on(
    tmp_path: Path,
) -> None:
    """What is refused changes nothing of what runs; two `up` at the same time start one floor."""
    with floors.floor(bring_up=False) as one:
        second = subprocess.Popen(
            [*floors.HFTCTL, "up", "--detach"],
            env=one.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            one.up()
            _, said = second.communicate(timeout=120)
        finally:
            if second.poll() is None:
                second.kill()
                second.wait()
        assert second.returncode == 0, said
        before = {i["id"]: i["pid"] for service in one.status()["services"] for i in service["instances"]}
        file = tmp_path / "services.yml"
        file.write_text(LAB.read_text().replace("daemon: bookd", "daemon: bokd"))
        (line,) = refused(one, "--services", str(file))
        assert f"{file}:{line_of(file.read_text(), 'bokd')}: services[2].daemon" in line
        (line,) = refused(one, "--tape", str(tmp_path / "none"))
        assert "no such file or folder" in line
        (line,) = refused(one, "--site", "berth")
        assert 'in use by the floor of site "lab"' in line
        assert one.healthy()
        assert {
            i["id"]: i["pid"] for service in one.status()["services"] for i in service["instances"]
        } == before
