"""`hftctl config` with an agent of its own, real daemons and a real etcd: set, edited, applied, gone back to,
watched; what is bad, too large, concurrent or another user's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.host import identity
from controlplane.http import unix
from controlplane.model import Mode, ServiceSpec
from controlplane.specs import settings_check
from hftd import settings as schemas
from tests.integration.test_at_a_terminal import at_a_terminal
from tests.support import agents, floors, servers

pytestmark = pytest.mark.timeout(240)
HFTCTL = [sys.executable, "-m", "controlplane.cli.main"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
SERVICE, INSTANCE = "strategy-mm", "strategy-mm-alpha-1"


def live(name: str, daemon: str = "") -> ServiceSpec:
    made = agents.spec(name, mode=Mode.SINGLETON, daemon=daemon)
    restart = settings_check.restart_fields(getattr(schemas, made.daemon.upper()))
    return replace(made, restart=restart)


class Site:
    def __init__(self, agent: agents.AgentProcess, folder: Path) -> None:
        self.agent, self.folder = agent, folder
        self.environment = {**os.environ, "HFT_SITE_DIR": str(agent.folder), "TMPDIR": str(folder)}
        self.environment.pop("VISUAL", None)

    def run(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*HFTCTL, "config", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json").stdout)

    def editor(self, *lines: str) -> None:
        """$EDITOR is these lines of shell, "$1" the file."""
        script = self.folder.parent / "editor.sh"
        script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
        script.chmod(0o755)
        self.environment["EDITOR"] = shlex.quote(str(script))

    def kept(self) -> list[Path]:
        return sorted(self.folder.iterdir())

    def revision(self) -> int:
        return int(self.json("get", SERVICE)["revision"])


@pytest.fixture(scope="module")
def running(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with servers.running(binary) as server:
        where = f"etcd://{server.endpoint}"
        agents.fill(where, live(SERVICE, "strategyd"), live("auditd"), live("simd"))
        with agents.agent_process(where) as agent:
            floord = identity.to_plain(
                identity.myself("hft-floord")
            )  # as long as it lives, so does the floor
            floor = {
                "site": "lab",
                "hosts": ["alpha"],
                "run_dir": str(agent.folder / "run"),
                "floord": floord,
            }
            (agent.folder / "floor.json").write_text(json.dumps(floor))
            agent.until("/v1/instances", lambda found: len(found) == 3 and all(i["pid"] for i in found))
            folder = tmp_path_factory.mktemp("edited") / "tmp"
            folder.mkdir()
            yield Site(agent, folder)


@pytest.fixture
def site(running: Site) -> Site:
    for path in running.kept():
        path.unlink()
    running.agent.until(
        "/v1/site/config/strategy-mm", lambda found: found["in_force"].get(INSTANCE) == found["revision"]
    )
    return running


def pid(site: Site) -> int:
    return site.agent.pids()[INSTANCE]


# --- set, history, diff, rollback ---------------------------------------------------------------------------


def test_a_change_is_in_force_in_the_running_daemon_when_the_verb_returns(site: Site) -> None:
    before, was = pid(site), site.revision()
    done = site.run("set", SERVICE, "skew_ppm=50", "breaker.failures=4", "--reason", "calmer")
    assert "skew_ppm: 100 -> 50" in done.stdout and "breaker.failures: 5 -> 4" in done.stdout
    assert f"in force on {INSTANCE} after" in done.stdout
    found = site.json("get", SERVICE)
    assert list(found)[:4] == ["service", "revision", "document", "in_force"]
    assert found["in_force"] == {INSTANCE: was + 1} and found["document"]["skew_ppm"] == 50
    assert pid(site) == before, "it was not restarted"
    assert site.run("get", SERVICE, "breaker.failures").stdout == "4\n"
    row = site.json("history", SERVICE)[-1]
    assert (row["revision"], row["reason"], row["kind"]) == (was + 1, "calmer", "set")
    assert row["actor"] == subprocess.check_output(["id", "-un"], text=True).strip()
    operations = json.loads(
        subprocess.run(
            [*HFTCTL, "op", "list", "-o", "json"],
            env=site.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert operations[-1]["id"] == row["operation"] and operations[-1]["state"] == "succeeded"

    site.run("set", SERVICE, "--unset", "skew_ppm", "--reason", "as it was")
    assert site.run("get", SERVICE, "skew_ppm").stdout == "100\n"
    assert "skew_ppm: 100 -> 50" in site.run("diff", SERVICE, str(was + 2), str(was + 1), code=1).stdout
    site.run("rollback", SERVICE, "--to", str(was + 1), "--reason", "calm again")
    assert site.run("get", SERVICE, "skew_ppm").stdout == "50\n"
    site.run("rollback", SERVICE, "--reason", "and back")
    assert site.run("get", SERVICE, "skew_ppm").stdout == "100\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["skew_pm=5"], 2, ["skew_pm", "skew_ppm"]),
        (["breaker.failure=5"], 2, ["breaker.failure", "breaker.failures"]),
        (["skew_ppm=many"], 2, ["skew_ppm", "many"]),
        (["skew_ppm=-1"], 2, ["skew_ppm", "0 to 1000000"]),
        (["tops=simd"], 1, ["tops", "services.yml"]),
        (["breaker=5"], 2, ["breaker"]),
    ],
)
def test_a_bad_path_or_value_is_refused_with_what_was_wanted_and_the_running_one_stays(
    site: Site, words: list[str], code: int, said: list[str]
) -> None:
    before, was = site.revision(), pid(site)
    done = site.run("set", SERVICE, *words, "--reason", "a mistake", code=code)
    assert all(each in done.stderr for each in said), done.stderr
    assert (site.revision(), pid(site)) == (before, was)


def test_what_only_a_restart_changes_says_so_and_is_in_force_in_the_process_that_was_started_for_it(
    site: Site,
) -> None:
    rows = {row["path"]: row["changes"] for row in _table(site.run("get", "simd").stdout)}
    assert (rows["seed"], rows["speed"]) == ("restarts", "live")
    before = site.agent.pids()["simd-alpha-1"]
    shown = site.run("set", "simd", "seed=7", "--dry-run").stdout
    assert "seed: 1 -> 7 (restarts its instances)" in shown
    done = site.run("set", "simd", "seed=7", "--reason", "another market")
    assert "in force on simd-alpha-1 after" in done.stdout
    after = site.agent.pids()["simd-alpha-1"]
    assert after is not None and after != before
    assert site.json("get", "simd")["in_force"] == {"simd-alpha-1": 2}


def _table(text: str) -> list[dict[str, str]]:
    lines = text.splitlines()
    heading = next(n for n, line in enumerate(lines) if line.startswith("PATH"))
    return [
        dict(zip(("path", "changes"), (line.split()[0], line.split()[-1]), strict=True))
        for line in lines[heading:]
    ]


# --- edit ---------------------------------------------------------------------------------------------------


def test_a_document_is_changed_in_the_editor_and_the_change_is_shown(site: Site) -> None:
    site.editor(
        'grep -q "^# strategy-mm, revision" "$1" || exit 9', 'sed -i "s/^skew_ppm: .*/skew_ppm: 77/" "$1"'
    )
    done = site.run("edit", SERVICE, "--reason", "by hand")
    assert "-> 77" in done.stdout and site.run("get", SERVICE, "skew_ppm").stdout == "77\n"
    assert site.kept() == []


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("exit 1", 2, "ended with 1: nothing is sent"),
        (":", 0, "unchanged, nothing is sent"),
        (': > "$1"', 2, "the file is empty, nothing is sent"),
    ],
)
def test_an_editor_that_fails_or_saves_nothing_changes_nothing(
    site: Site, line: str, code: int, said: str
) -> None:
    before = site.revision()
    site.editor(line)
    done = site.run("edit", SERVICE, "--reason", "x", code=code)
    assert said in done.stdout + done.stderr
    assert site.revision() == before and site.kept() == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('echo "skew_ppm: [1" > "$1"', "strategy-mm.yml:2: not YAML"),
        (
            'printf "markets: [spot]\\nskew_ppm: many\\n" > "$1"',
            "strategy-mm.yml:2: strategy-mm: skew_ppm: found",
        ),
    ],
)
def test_what_was_edited_badly_is_shown_with_its_line_and_kept(site: Site, line: str, said: str) -> None:
    before = site.revision()
    site.editor(line)
    done = site.run("edit", SERVICE, "--reason", "x", code=2)
    (kept,) = site.kept()
    assert said in done.stderr and str(kept) in done.stderr and "skew_ppm" in kept.read_text()
    assert site.revision() == before


def test_two_who_edit_at_once_see_both_sides_and_neither_loses_what_was_written(site: Site) -> None:
    theirs = shlex.join([*HFTCTL, "config", "set", SERVICE, "skew_ppm=66", "--reason", "theirs"])
    site.editor(f"{theirs} > /dev/null || exit 9", 'sed -i "s/^skew_ppm: .*/skew_ppm: 33/" "$1"')
    done = site.run("edit", SERVICE, "--reason", "mine", code=1)
    assert "conflict" in done.stderr and "-> 66" in done.stderr and "-> 33" in done.stderr
    assert "theirs" in done.stderr and "yours:" in done.stderr
    (kept,) = site.kept()
    assert str(kept) in done.stderr
    assert site.run("get", SERVICE, "skew_ppm").stdout == "66\n"
    site.run("apply", SERVICE, "-f", str(kept), "--reason", "mine after all")
    assert site.run("get", SERVICE, "skew_ppm").stdout == "33\n"


def test_at_a_terminal_it_is_edited_again_asked_about_and_kept_when_it_is_interrupted(site: Site) -> None:
    before = site.revision()
    site.editor(
        'if grep -q "skew_ppm: many" "$1"; then sed -i "s/skew_ppm: many/skew_ppm: 44/" "$1"',
        'else sed -i "s/^skew_ppm: .*/skew_ppm: many/" "$1"; fi',
    )
    words = ("config", "edit", SERVICE, "--reason", "by hand")
    with at_a_terminal(site, *words) as terminal:
        floors.wait_for("the fault", lambda: terminal.shows("skew_ppm: found", "edit it again? [Y/n]"))
        terminal.type("\n")
        floors.wait_for("the change", lambda: terminal.shows("-> 44", "send it? [y/N]"))
        terminal.type("y\n")
        floors.wait_for("its end", terminal.ended)
        assert terminal.process.returncode == 0 and terminal.shows(f"revision {before} -> {before + 1}")
    assert site.kept() == []
    site.editor('sed -i "s/^skew_ppm: .*/skew_ppm: 45/" "$1"')
    with at_a_terminal(site, *words) as terminal:
        floors.wait_for("the question", lambda: terminal.shows("-> 45", "send it? [y/N]"))
        terminal.ctrl_c()
        floors.wait_for("its end", terminal.ended)
        assert terminal.process.returncode == 130 and terminal.shows("is kept in")
    assert site.revision() == before + 1


# --- a whole document ---------------------------------------------------------------------------------------


def test_a_file_is_applied_whole_and_what_it_leaves_out_is_the_default(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "mm.yml"
    file.write_text("skew_ppm: 12\n")
    site.run("apply", SERVICE, "-f", str(file), "--reason", "small")
    found = site.json("get", SERVICE)["document"]
    assert found["skew_ppm"] == 12 and found["breaker"]["failures"] == 5
    file.write_text(yaml.safe_dump(found | {"skew_ppm": "many"}))
    done = site.run("apply", SERVICE, "-f", str(file), "--reason", "x", code=2)
    assert f"{file}:" in done.stderr and "skew_ppm: found" in done.stderr


def test_a_document_of_a_megabyte_is_refused_by_the_verb_and_by_the_agent(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "big.json"
    file.write_text(json.dumps({"markets": ["x" * 1023] * 1024}))
    done = site.run("apply", SERVICE, "-f", str(file), "--reason", "x", code=2)
    assert done.stderr.count("\n") == 1 and "262,144" in done.stderr
    body = {"kind": "apply", "base": site.revision(), "reason": "x", "document": json.loads(file.read_text())}
    target = f"/v1/site/config/{SERVICE}"
    answer = unix.request(site.agent.socket, "POST", target, json.dumps(body).encode(), timeout_s=20)
    assert answer.status == 413 and answer.body.count(b"\n") == 0
    body["document"] = {"markets": ["x" * 1023] * 70}
    answer = unix.request(site.agent.socket, "POST", target, json.dumps(body).encode(), timeout_s=20)
    assert answer.status == 413 and b"65536" in answer.body
    assert site.run("get", SERVICE).returncode == 0


# --- plain keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a/b", ".hidden", "two\nlines", "a b", ""])
def test_a_key_that_cannot_be_is_refused_by_the_verb_and_by_the_agent(site: Site, key: str) -> None:
    done = site.run("set", f"/{key}", "5", "--reason", "x", code=2)
    assert done.stderr.count("\n") == 1
    target = f"/v1/site/keys/{key.replace(chr(10), '%0A').replace(' ', '%20')}"
    answer = unix.request(site.agent.socket, "POST", target, b'{"value": 5, "reason": "x"}', timeout_s=20)
    assert answer.status == (404 if "\n" in key else 400), answer
    assert "\n" in key or b"wanted 1 to 128 letters" in answer.body
    assert not [row for row in site.json("get")["keys"] if row["key"] == key]


def test_a_key_with_a_dot_is_a_key_and_one_with_a_ttl_is_gone_after_its_time(site: Site) -> None:
    site.run("set", "/desk.limit", "2.5", "--reason", "today")
    assert site.run("get", "/desk.limit").stdout == "2.5\n"
    site.run("set", "/short", "true", "--ttl", "10s", "--reason", "a moment")
    began = time.monotonic()
    assert site.run("get", "/short").stdout == "true\n"
    floors.wait_for("the store to delete it", lambda: site.run("get", "/short", code=None).returncode == 2)
    assert time.monotonic() - began > 5, "not at once"
    assert site.run("get", "/desk.limit").stdout == "2.5\n"
    site.run("set", "/desk.limit", "--delete", "--reason", "over")
    assert site.run("get", "/desk.limit", code=2).stderr.count("\n") == 1


# --- watching -----------------------------------------------------------------------------------------------


class Watch:
    """A `config watch` that runs, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self._told = process, b""
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)

    def told(self) -> list[str]:
        """Whole lines."""
        assert self.process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            self._told += os.read(self.process.stdout.fileno(), 1 << 20)
        return self._told.decode().splitlines()[: self._told.count(b"\n")]

    def about(self, what: str) -> list[str]:
        return [line for line in self.told() if what in line]

    def until_it_looks(self, site: Site, key: str) -> None:
        """The key is changed until the watch tells of it."""
        numbers = itertools.count(1)

        def heard() -> list[str]:
            site.run("set", f"/{key}", str(next(numbers)), "--reason", "tick")
            return self.about(key)

        floors.wait_for(f"a line about {key}", heard)


@contextlib.contextmanager
def watching(site: Site, *words: str) -> Iterator[Watch]:
    process = subprocess.Popen(
        [*HFTCTL, "config", "watch", *words], env=site.environment, stdout=subprocess.PIPE
    )
    try:
        yield Watch(process)
    finally:
        process.kill()
        process.communicate()


def test_a_watch_prints_what_changes_over_an_agents_restart_and_ends_with_ctrl_c(site: Site) -> None:
    with watching(site) as watch:
        watch.until_it_looks(site, "first")
        site.agent.kill()
        site.agent.start()
        site.agent.until("/v1/site/config", lambda found: found["services"])
        watch.until_it_looks(site, "second")
        was = site.run("get", SERVICE, "skew_ppm").stdout.strip()
        site.run("set", SERVICE, "skew_ppm=21", "--reason", "seen by all")
        [line] = floors.wait_for("the change", lambda: watch.about("skew_ppm"))
        assert f"strategy-mm revision {site.revision()} skew_ppm: {was} -> 21 (by " in line
        assert line.endswith(": seen by all)")
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(20) == 130


def test_a_watch_of_one_service_in_json_is_a_line_a_change(site: Site) -> None:
    values = itertools.count(1)
    with watching(site, SERVICE, "-o", "json") as watch:

        def told() -> list[str]:
            site.run("set", SERVICE, f"skew_ppm={next(values)}", "--reason", "one of many")
            site.run("set", "/other", str(next(values)), "--reason", "of no matter here")
            return watch.told()

        rows = [json.loads(line) for line in floors.wait_for("a line", told)]
        assert {row["service"] for row in rows} == {SERVICE}
        assert [row["path"] for row in rows] == ["skew_ppm"] * len(rows)
        assert rows[-1]["reason"] == "one of many" and rows[-1]["new"] != rows[-1]["old"]
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(20) == 130


# --- another user -------------------------------------------------------------------------------------------


def test_another_user_can_change_nothing(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    before = site.revision()
    knock = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    tried = subprocess.run(
        [*NOBODY, "/usr/bin/python3", "-I", "-c", knock, str(site.agent.socket)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tried.returncode != 0 and "Permission denied" in tried.stderr
    url = site.agent.get("/v1/site/status")["hosts"][0]["url"]
    for path in (f"v1/site/config/{SERVICE}", "v1/site/keys/kill_switch"):
        for more, codes in ((["-X", "POST", "-d", "{}"], ("403", "405")), ([], ("403",))):
            curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *more, f"{url}/{path}"]
            assert subprocess.check_output([*NOBODY, *curl], text=True) in codes, (path, more)
    assert site.revision() == before
