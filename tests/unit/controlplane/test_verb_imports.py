"""What a verb imports, and that the table of verbs says of each what its file says (ADR 0026). Each case is a
process of its own that ends by naming what it has imported: no clock, so no luck.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import typer.main

from controlplane.cli import foreign, main, verbs, with_typer

NEVER = {
    *("pydantic", "pydantic_core", "rich", "pygments", "importlib.metadata", "importlib.resources", "email"),
    *(
        "grpc",
        "google",
        "anyio",
        "asyncio",
        "ssl",
        "h11",
        "starlette",
        "zmq",
        "yaml",
        "prometheus_client",
        "psutil",
        "cryptography",
    ),
    *("logging", "argparse", "json.tool", "xml", "http", "controlplane.store", "agents", "hftd.wire"),
}
"""Too slow for a verb. `-o yaml` and `status --watch` at a terminal import what they print with."""
NEVER_PLAIN = NEVER | {"typer", "msgspec", "inspect", "platform", "subprocess"}
"""What a plain line does without as well."""
ROOMS = {
    *(
        "controlplane",
        "controlplane.cli",
        "controlplane.errors",
        "controlplane.floor",
        "controlplane.floor.folders",
    ),
    *(
        "controlplane.host",
        "controlplane.host.files",
        "controlplane.host.log_line",
        "controlplane.http",
        "controlplane.http.unix",
    ),
    *("controlplane.site", "controlplane.site.look"),
}
"""What a verb that asks an agent uses of this package."""

ASKING = ["status", "services", "endpoints x", "health", "host list", "events", "history x", "orders"]
ASKING += ["positions", "logs x", "failover x --reason y", "fence show x"]
ASKING += ["fence reset x --reason y", "maint x --off", "deregister x"]
ASKING += ["register x --address 10.0.0.1 --port 1"]
ASKING += ["breaker list", "breaker open x --reason y --for 5m"]
ASKING += ["config get", "config get x", "config get x a.b", "config get /x", "config history x"]
ASKING += ["config set x a=5 b=text --reason y", "config set /x true --reason y", "config diff x 1 2"]
ASKING += ["config rollback x --reason y", "config watch", "config edit x"]
ASKING += ["fence reset x --reason y", "op list", "op list --archived --since 2h", "op show x", "op watch x"]
HELP = ["--help", "up --help", "down --help", "host --help", "data --help", "audit verify --help"]
WRONG = ["up --speed", "status -o xml", "nosuch"]

RUN = """
import json, os, sys
from controlplane.cli import main
code = main.run(sys.argv[1:])
with os.fdopen(3, "w") as told:
    json.dump({"code": code, "modules": sorted(sys.modules)}, told)
"""


def imported(*words: str, site_dir: Path, **environment: str) -> tuple[int, set[str], str]:
    """Exit code, modules and stdout of one command line."""
    read, write = os.pipe()
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import os; os.dup2({write}, 3); os.set_inheritable(3, False){RUN}",
                *words,
            ],
            env={**os.environ, "HFT_SITE_DIR": str(site_dir), **environment},
            pass_fds=[write],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    with os.fdopen(read) as told:
        found = json.load(told)
    return found["code"], set(found["modules"]), done.stdout


def heavy(modules: set[str], never: set[str] = NEVER) -> list[str]:
    return sorted(name for name in never if name in modules)


@pytest.mark.parametrize("line", ASKING)
def test_a_verb_that_asks_an_agent_imports_what_asking_takes(line: str, tmp_path: Path) -> None:
    code, modules, _ = imported(*line.split(), site_dir=tmp_path)
    assert (code, heavy(modules, NEVER_PLAIN)) == (3, [])
    of_ours = {name for name in modules if name.startswith(("controlplane", "agents", "hftd"))}
    assert {name for name in of_ours if not name.startswith("controlplane.cli.")} <= ROOMS


@pytest.mark.parametrize("line", [*HELP, *WRONG])
def test_help_and_usage_errors_import_nothing_that_a_verb_works_with(line: str, tmp_path: Path) -> None:
    code, modules, _ = imported(*line.split(), site_dir=tmp_path)
    assert (code, heavy(modules)) == (2 if line in WRONG else 0, [])


def completed(shell: str, words: str, site_dir: Path) -> tuple[set[str], str]:
    given = {
        "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": words},
    }[shell]
    code, modules, said = imported(site_dir=site_dir, _HFTCTL_COMPLETE=f"complete_{shell}", **given)
    assert code == 0
    return modules, said


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_verbs_options_and_values_and_imports_no_more_than_a_verb(
    shell: str, tmp_path: Path
) -> None:
    for words, wanted, unwanted in (
        ("hftctl ser", ["services"], ["status", "data"]),
        ("hftctl ", ["status", "host", "data", "audit"], []),
        ("hftctl services --", ["--output", "--site-dir", "--timeout"], ["--follow"]),
        ("hftctl services -o ", ["table", "json", "yaml"], ["services"]),
        ("hftctl host ", ["list"], ["status"]),
    ):
        modules, said = completed(shell, words, tmp_path)
        assert all(word in said for word in wanted) and not any(word in said for word in unwanted), said
        assert heavy(modules, NEVER_PLAIN) == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_script_of_a_shell_is_shown(shell: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "controlplane.cli.main"],
        env={**os.environ, "_HFTCTL_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0 and f"_HFTCTL_COMPLETE=complete_{shell}" in shown.stdout


def test_the_completion_of_the_shell_that_asks_is_installed(tmp_path: Path) -> None:
    line = f"{sys.executable} -m controlplane.cli.main --install-completion; exit $?"
    done = subprocess.run(
        ["bash", "-c", line],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    script = (tmp_path / ".bash_completions" / "hftctl.sh").read_text()
    assert "_HFTCTL_COMPLETE=complete_bash" in script and "hftctl.sh" in (tmp_path / ".bashrc").read_text()


def test_the_table_of_verbs_says_what_each_verb_says_of_itself() -> None:
    group = typer.main.get_command(with_typer.app)
    assert isinstance(group, with_typer.Verbs)
    for name, verb in verbs.VERBS.items():
        of_its_file = " ".join(group.get_command(None, name).help.split())
        assert f"{of_its_file} ".startswith(f"{verb.help} "), name


def test_a_verb_of_another_package_that_cannot_be_loaded_is_listed_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(foreign, "places", lambda: {"broken": "nosuch.module:verb"})
    assert main.run(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "broken Cannot be loaded: ModuleNotFoundError: No module named 'nosuch'" in said and "status" in said
    )


def test_the_verbs_of_other_packages_are_those_of_importlib_metadata() -> None:
    wanted = {entry.name: entry.value for entry in metadata.entry_points(group=foreign.GROUP)}
    assert foreign.places() == wanted and {"data", "audit"} <= wanted.keys()


def test_entry_points_are_read_line_by_line_and_the_first_folder_wins(tmp_path: Path) -> None:
    for folder, text in {
        "a/one-1.dist-info": "[console_scripts]\nx = m:x\n\n[hftctl.verbs]\n# said\nx = m.n:a.b [e]\nno\n",
        "a/bad-1.dist-info": "[hftctl.verbs]\n\xff = m:y\n",
        "b/two-1.egg-info": "[hftctl.verbs]\nx=other:x\ny=other:y\n",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "entry_points.txt").write_bytes(text.encode("latin-1"))
    path = [str(tmp_path / name) for name in ("a", "nosuch", "b")]
    assert foreign.places(path) == {"x": "m.n:a.b", "y": "other:y"}
