"""What others wrote (a reason, a name, a log) never reaches the operator's terminal as a command."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from rich.console import Console

from controlplane.cli import by_name, events, leadership, logs, main, render, status_text, stderr
from controlplane.cli.output import Output
from controlplane.floor import watch_screen
from controlplane.site import document
from tests.unit.controlplane import test_status as built

EVIL = "a\x1b]0;owned\x07b\x1b[2J\x9b31mc\x7fd\r\u202ee\u200bf\x85g\nh"
"""A title set, a screen wiped, a colour by C1, delete, a carriage return, turned text, a hidden mark."""
OURS = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, which rich and render.paint set."""


def quiet(text: str) -> bool:
    """Nothing in it that a terminal obeys or hides, but lines and tabs."""
    return not [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]


def poisoned(found: Any) -> Any:
    """The same document with every text poisoned."""
    if isinstance(found, dict):
        return {key: poisoned(value) for key, value in found.items()}
    if isinstance(found, list):
        return [poisoned(each) for each in found]
    return EVIL if isinstance(found, str) else found


@pytest.fixture
def status() -> dict[str, Any]:
    found: dict[str, Any] = poisoned(built.build(built.floor()))
    found["paused"] = {"by": EVIL, "reason": EVIL, "since": EVIL}
    alarm = dict.fromkeys(("id", "severity", "subject", "text", "since"), EVIL)
    return found | {"alarms": [alarm]}


def test_the_text_itself_is_not_quiet() -> None:
    assert not quiet(EVIL)


def test_status_shows_every_text_escaped(status: dict[str, Any]) -> None:
    said = status_text.text(by_name.read(json.dumps(status).encode()))
    assert quiet(said) and "\\x1b[2J" in said and "paused by" in said


def test_the_live_screen_shows_every_text_escaped(status: dict[str, Any]) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=400)
    console.print(watch_screen.draw(msgspec.convert(status, document.StatusDocument)))
    said = OURS.sub("", screen.getvalue())
    assert quiet(said) and "\\x1b]0;owned" in said


@pytest.mark.parametrize("output", list(Output))
def test_every_way_to_print_rows_escapes(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": EVIL, "many": [EVIL], "nested": {EVIL: EVIL}}]
    render.show(rows, output, ("name", "many", "nested"))
    said = capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said)
    if output is Output.json:
        assert json.loads(said) == rows, "nothing is lost for a program"
    if output is Output.yaml:
        assert yaml.safe_load(said) == rows


def test_errors_events_and_sentences_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    stderr.say(EVIL)
    event = {"at": "t", "host": EVIL, "kind": EVIL, "fields": {"why": EVIL}}
    render.say(events.line(event))
    render.say(leadership.sentence(leadership.outcome(EVIL, "refused", EVIL)))
    said = capsys.readouterr()
    assert quiet(said.err) and quiet(said.out) and said.err.startswith("hftctl: a\\x1b]0;owned")


def test_a_wrong_word_on_the_command_line_is_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([f"status{EVIL}"]) == 2
    assert main.run(["status", "--site-dir", str(tmp_path / EVIL.replace("\n", ""))]) == 3
    said = capsys.readouterr().err
    assert quiet(said) and said.count("hftctl: ") >= 2


def test_a_log_keeps_its_lines_and_tabs_and_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", said)
    whole = f"one\ttwo\n{EVIL} ünï \n".encode() + b"\xff\n"
    for at in range(0, len(whole), 3):  # characters are cut by the ends of the parts
        logs.emit(whole[at : at + 3])
    assert quiet(said.getvalue()) and said.getvalue().startswith("one\ttwo\na\\x1b]0;owned")
    assert " ünï " in said.getvalue() and said.getvalue().count("\n") == 4


def test_a_terminal_that_has_no_such_letter_gets_its_escape_and_no_error() -> None:
    code = (
        "from controlplane.cli import dispatch, main; dispatch.dispatch = lambda a: print('5 µs') or 0; "
        "main.main()"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"5 \\xb5s\n", b"")
