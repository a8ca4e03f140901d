"""plain.py reads a part of what typer reads, with the same values: on any line, either it leaves the line to
typer or it makes the very call that typer makes.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.cli import plain, verbs, with_typer
from controlplane.cli.declare import Argument, Option
from controlplane.cli.output import Output

PLACES = {name: verb.place for name, verb in verbs.VERBS.items()}
BEGINNINGS = [[name] for name in PLACES] + [["host", "list"], ["nosuch"], ["data", "verify"]]
OPTIONS = [
    "-o",
    "--output",
    "--site-dir",
    "--timeout",
    "--site",
    "--watch",
    "--follow",
    "-f",
    "--lines",
    "-n",
]
OPTIONS += ["--wide", "-w", "--to", "--reason", "--file", "--yes", "-y", "--wait", "--no-wait", "--tape"]
OPTIONS += ["--services", "--speed", "--seed", "-d", "--detach", "--http-port", "--store", "--help", "-x"]
VALUES = ["json", "table", "xml", "omsd", "/tmp", "no/such", "5", "0.05", "-1", "1e3", "nan", "10", "70000"]
VALUES += ["", "-", "--", "ünï", "two words", "1_0", " 7", "0x10"]
WORDS = st.sampled_from([*OPTIONS, *VALUES])
PAIRS = st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES))
ANYTHING = st.one_of(PAIRS, WORDS.map(lambda word: (word,)), PAIRS.map(lambda pair: ("=".join(pair),)))


def likely(beginning: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """What fits the verb more often than not, so that many lines are plain."""
    found = plain.read([*beginning, *(["x"] if beginning[0] in NEEDS_ONE else [])], PLACES)
    if found is None:
        return ANYTHING
    own = [
        tuple(word for word in (name, value) if word)
        for parameter in plain.parameters(found.function)
        for name in _spellings(parameter.declared)
        for value in FITTING[parameter.type]
    ]
    return st.one_of(st.sampled_from(own), st.sampled_from(own), st.sampled_from(own), ANYTHING)


def _spellings(declared: Option | Argument) -> list[str]:
    return "/".join(declared.names).split("/") if isinstance(declared, Option) else [""]


NEEDS_ONE = {"endpoints", "logs", "history", "failover"}
FITTING = {
    str: ("omsd", "two words"),
    int: ("1", "5"),
    float: ("2", "7.5"),
    bool: ("",),
    Path: ("/tmp", "no/such"),
    Output: ("json", "table"),
}
LINES = st.sampled_from(BEGINNINGS).flatmap(
    lambda verb: st.builds(
        lambda before, after: [
            *(word for words in before for word in words),
            *verb,
            *(word for words in after for word in words),
        ],
        st.lists(st.one_of(st.just(("-o", "json")), st.just(("--timeout", "3")), PAIRS), max_size=2),
        st.lists(likely(verb), max_size=5),
    )
)

Calls = list[tuple[Callable[..., Any], dict[str, Any]]]


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """What typer calls; nothing is run."""
    made: Calls = []
    real = with_typer._for_typer

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real(function))
        def record(**arguments: Any) -> None:
            made.append((function, arguments))

        return record

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(with_typer, "_for_typer", recorded)
        patched.delenv("HFT_SITE", raising=False)
        yield made


def by_typer(line: list[str], calls: Calls) -> Calls:
    calls.clear()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        with_typer.dispatch(line)
    return calls


def agrees(line: list[str], calls: Calls) -> bool:
    """Whether the line is plain; then typer must make the same call."""
    call = plain.read(line, PLACES)
    if call is None:
        return False
    (made,) = by_typer(line, calls)
    assert repr((call.function, call.arguments)) == repr(made)  # repr: 1 is not 1.0, and nan is nan
    return True


@given(line=LINES)
def test_a_line_is_left_to_typer_or_read_as_typer_reads_it(line: list[str], calls: Calls) -> None:
    agrees(line, calls)


@pytest.mark.parametrize(
    "line",
    [
        "status",
        "-o json status",
        "status --watch --output=yaml",
        "--timeout 2 --site-dir /tmp health omsd -o json --timeout 3",
        "--timeout 2 apply -f x.yml",
        "-o json down",
        "host list -o yaml",
        "-o json host list",
        "failover omsd --reason why --to omsd-beta-1",
        "-o json fence show omsd",
        "fence reset omsd --reason why --timeout 3",
        "apply -f a.yml --file b.yml -y --no-wait",
        "up -d --tape a b --tape c d --seed 7 --http-port 0 --site berth",
        "up",
        "logs omsd-alpha-1 -f -n 3",
        "events -n 10000",
        "orders --lines 0 -w",
        "config get",
        "config get omsd breaker.failures -o json",
        "config set omsd a=1 b.c=x --unset d --unset e --reason why --rollout --watch 30s",
        "-o json config set /kill_switch true --reason why --ttl 30s --type bool -y",
        "config diff omsd 3 4",
        "config rollback omsd --to 3 --reason why",
    ],
)
@pytest.mark.parametrize("site", [None, "", "other"])
def test_ordinary_lines_are_plain(
    line: str, site: str | None, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    if site is not None:
        monkeypatch.setenv("HFT_SITE", site)
    assert agrees(line.split(), calls)


@pytest.mark.parametrize(
    "line",
    [
        *("", "nosuch", "status --help", "--help", "status x", "status -o xml", "status -o", "logs", "host"),
        *(
            "host nosuch",
            "events -n 0",
            "events -n 10001",
            "--timeout 0 status",
            "--timeout 0.5 up",
            "status -",
        ),
        *("data verify x", "failover omsd --reason --to", "logs -- -x", "status --watch=1", "events -n ten"),
        *("diff", "-o status", "status -ojson", "fence", "fence show", "fence reset --reason x"),
    ],
)
def test_every_other_line_is_left_to_typer(line: str) -> None:
    assert plain.read(line.split(), PLACES) is None


def test_what_is_read_has_its_types(tmp_path: Path) -> None:
    call = plain.read(["-o", "json", "--site-dir", str(tmp_path), "health", "omsd", "--timeout", "2"], PLACES)
    assert call is not None and call.arguments == {
        "what": "omsd",
        "output": Output.json,
        "site_dir": tmp_path,
        "timeout": 2.0,
    }
