"""Every block of the README is run, as somebody pastes it: each command ends with 0, and what the README
shows under it is there, but for figures and for which host leads.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import consul_servers, floors

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
END = "--- end of command, exit "
FIGURES = [
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"/tmp/[^\s:;]*", "FOLDER"),
    (r"\b(alpha|beta)\b", "HOST"),
    (r"\?/s", "0/s"),  # a rate, before it is known
    (r"-?\b\d+(\.\d+)*", "0"),
    (r"\s+", " "),
]


class Step(NamedTuple):
    command: str
    shown: list[str]


def blocks(document: str) -> list[list[str]]:
    """The indented blocks, without their indentation."""
    found: list[list[str]] = [[]]
    for line in (ROOT / document).read_text().splitlines():
        if line.startswith("    "):
            found[-1].append(line[4:])
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def steps(block: list[str]) -> list[Step]:
    found: list[Step] = []
    for line in block:
        if line.startswith("$ "):
            found.append(Step(line[2:], []))
        else:
            found[-1].shown.append(line)
    return found


MAKE, SESSION, PICTURE, EXAMPLES = blocks("README.md")
(SESSION_ON_CONSUL,) = blocks("docs/stores.md")


def plain(line: str) -> str:
    for figure, name in FIGURES:
        line = re.sub(figure, name, line)
    return line.strip()


def paste(block: list[str], environment: dict[str, str]) -> None:
    """All commands at once into one shell; each has to end with 0 and to show what the README shows."""
    wanted = steps(block)
    script = "\n".join(f"{step.command}\necho '{END}'$?" for step in wanted)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        check=False,
    )
    rest = done.stdout
    for step in wanted:
        said, _, rest = rest.partition(END)
        code, _, rest = rest.partition("\n")
        assert code == "0", f"$ {step.command}\n{said}exit {code}\n{rest}"
        lines = [plain(line) for line in said.splitlines()]
        for shown in step.shown:
            begin = plain(shown.partition("...")[0])  # "..." stands for lines, or an end, left out
            assert any(line.startswith(begin) for line in lines), f"$ {step.command}\nno {begin!r} in\n{said}"


def environment(site_dir: Path) -> dict[str, str]:
    """As after `source .venv/bin/activate`, and no etcd but the one that comes with the packages."""
    folders = os.environ["PATH"].split(os.pathsep)
    folders = [folder for folder in folders if not (Path(folder) / "etcd").exists()]
    path = os.pathsep.join([str(Path(sys.executable).parent), *folders])
    found = {**os.environ, "PATH": path, "HFT_SITE_DIR": str(site_dir), "NO_COLOR": "1"}
    found.pop("HFT_ETCD", None)
    return found


@pytest.fixture
def floor() -> Iterator[floors.Floor]:
    with floors.floor(bring_up=False) as one:
        yield one


def test_the_session_passes_as_it_is_pasted(floor: floors.Floor) -> None:
    session = [line.replace("HFT_SITE_DIR=/tmp/floor", f"HFT_SITE_DIR={floor.site_dir}") for line in SESSION]
    assert session != SESSION
    paste(session, environment(floor.site_dir))
    assert floors.processes_of(floor.site_dir) == []


def test_the_session_passes_on_consul_too(floor: floors.Floor) -> None:
    """docs/stores.md shows it: the same commands, but for what `up` is told."""
    told = [step.command.replace(" --store consul", "") for step in steps(SESSION_ON_CONSUL)]
    assert told == [step.command for step in steps(SESSION)]
    session = [
        line.replace("HFT_SITE_DIR=/tmp/floor", f"HFT_SITE_DIR={floor.site_dir}")
        for line in SESSION_ON_CONSUL
    ]
    found = environment(floor.site_dir) | {"HFT_CONSUL": str(consul_servers.consul())}
    paste(session, found)
    assert floors.processes_of(floor.site_dir) == []


def test_the_examples_pass_on_a_floor_that_trades(floor: floors.Floor) -> None:
    floor.up()
    rows = [line.split()[1] for line in EXAMPLES if line.startswith("spot ")]
    floors.wait_for(
        "positions", lambda: rows and {row["symbol"] for row in floor.json("positions")} >= set(rows)
    )
    floors.wait_for(
        "a signed head", lambda: "signed by key" in floor.run("audit", "verify").stdout, pause_s=0.5
    )
    paste(EXAMPLES, environment(floor.site_dir))


def test_make_up_and_down_do_what_they_say(floor: floors.Floor) -> None:
    """Without `install`, which was done before this test ran."""
    alone = {
        name: value
        for name, value in environment(floor.site_dir).items()
        if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    }  # not as a part of `make test`

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["make", "-o", "install", f"BIN={Path(sys.executable).parent}", *words]
        return subprocess.run(
            command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=240, check=False
        )

    assert [line.split("#")[0].split() for line in MAKE] == [["make", "up"], ["make", "test"]]
    up = make("up", "ARGS=--detach")
    assert up.returncode == 0 and "up and healthy in" in up.stdout, up.stdout + up.stderr
    status = make("status")
    assert status.returncode == 0 and status.stdout.startswith("site lab: healthy"), status.stdout
    down = make("down")
    assert down.returncode == 0 and "is down; its data is kept" in down.stdout, down.stdout + down.stderr
    wanted = make("-n", "test")
    assert wanted.returncode == 0 and "pytest" in wanted.stdout, wanted.stderr


def test_what_is_left_is_a_picture() -> None:
    assert any("──" in line for line in PICTURE) and not any("$ " in line for line in PICTURE)
