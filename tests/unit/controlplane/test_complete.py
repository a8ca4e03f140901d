"""complete.py answers a shell what typer would answer, or leaves it to typer."""

from __future__ import annotations

import contextlib
import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.cli import complete, dispatch, verbs, with_typer

WORDS = [
    "status",
    "up",
    "apply",
    "host",
    "list",
    "failover",
    "logs",
    "omsd",
    "data",
    "nosuch",
    "-o",
    "--output",
]
WORDS += ["json", "--site-dir", "/tmp", "--timeout", "2", "-f", "--follow", "--no-wait", "--yes", "-x", "--"]
WORDS += ["--tape", "--reason", "why", "-w", "orders", "events", "-n", "5", "0"]
BEGINNINGS = ["", "s", "st", "h", "d", "-", "--", "--s", "--no", "-o", "j", "t", "x", "om", "--wa", "--help"]


def asked(shell: str, words: list[str], beginning: str) -> dict[str, str]:
    """The environment that typer's script for the shell sets."""
    line = " ".join(["hftctl", *words, beginning])
    if shell == "bash":
        return {"COMP_WORDS": line, "COMP_CWORD": str(len(words) + 1)}
    return {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}


def by_typer(shell: str, environ: dict[str, str]) -> str:
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(said):
        for name, value in {**environ, dispatch.COMPLETE: f"complete_{shell}"}.items():
            patched.setenv(name, value)
        assert with_typer.dispatch([]) == 0
    return said.getvalue().removesuffix("\n")


def agrees(shell: str, words: list[str], beginning: str) -> str | None:
    environ = asked(shell, words, beginning)
    told = complete.answer(environ, shell, verbs.VERBS)
    assert told is None or told == by_typer(shell, environ), (shell, words, beginning)
    return told


@given(
    shell=st.sampled_from(["bash", "zsh", "fish"]),
    words=st.lists(st.sampled_from(WORDS), max_size=4),
    beginning=st.sampled_from(BEGINNINGS),
)
def test_a_shell_is_told_what_typer_would_tell_it(shell: str, words: list[str], beginning: str) -> None:
    agrees(shell, words, beginning)


NOUNS = ("host", "fence", "breaker", "op", "config")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("|", ["status", "host", "data", "audit"]),
        ("|ser", ["services"]),
        ("|nosuch", []),
        ("host |", ["list"]),
        ("fence |", ["show", "reset"]),
        ("breaker |", ["list", "open", "close", "auto"]),
        ("breaker open x |--", ["--reason", "--for", "--timeout"]),
        ("config |", ["get", "set", "edit", "apply", "diff", "history", "rollback", "watch"]),
        ("config set x |--", ["--unset", "--ttl", "--rollout", "--canary", "--revert-when"]),
        ("config set /x 5 --type |", ["bool", "int", "float", "string", "json"]),
        ("fence reset omsd |--", ["--reason", "--timeout", "--output", "--site-dir"]),
        ("services |--", ["--output", "--site-dir", "--timeout", "--help"]),
        ("services -o json |--o", []),
        ("services -o |", ["table", "json", "yaml"]),
        ("services --output |j", ["json"]),
        ("up --tape a |--ta", ["--tape"]),
        ("apply |--", ["--file", "--wait", "--no-wait", "--yes"]),
        ("logs |omsd", []),
        ("up --site-dir |/", []),
        *((f"{name} |-", ["--help"]) for name in verbs.VERBS if name not in NOUNS),
    ],
)
def test_ordinary_lines_are_completed_without_typer(shell: str, line: str, wanted: list[str]) -> None:
    before, _, beginning = line.partition("|")
    told = agrees(shell, before.split(), beginning)
    assert told is not None and all(word in told for word in wanted)
    assert wanted or told == ("_files" if shell == "zsh" else "")


@pytest.mark.parametrize(
    "environ",
    [
        *({}, {"COMP_WORDS": "hftctl s"}, {"COMP_WORDS": "hftctl s", "COMP_CWORD": "x"}),
        *(
            {"COMP_WORDS": f"hftctl {line}", "COMP_CWORD": "2"}
            for line in ("'st", "a\\ b", "up --site=x", "ü")
        ),
        *({"COMP_WORDS": f"hftctl {line}", "COMP_CWORD": "2"} for line in ("data v", "nosuch x", "-o json")),
    ],
)
def test_what_is_not_plain_is_left_to_typer(environ: dict[str, str]) -> None:
    assert complete.answer(environ, "bash", verbs.VERBS) is None


def test_another_shell_is_left_to_typer() -> None:
    assert complete.answer(os.environ, "powershell", verbs.VERBS) is None
