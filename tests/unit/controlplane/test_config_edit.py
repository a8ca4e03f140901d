"""`hftctl config edit` with an $EDITOR that is a script: what is sent, what is not, what is kept."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.config_agent import ConfigAgent, Terminal


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An $EDITOR that runs these lines of shell, "$1" the file; what it saw is kept."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)

    def make(*lines: str) -> Path:
        script = tmp_path / "editor.sh"
        seen = tmp_path / "seen"
        script.write_text("\n".join(["#!/bin/sh", f'cp -p "$1" {seen}', *lines]) + "\n")
        script.chmod(0o755)
        monkeypatch.setenv("EDITOR", str(script))
        return seen

    return make


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "tmp").iterdir())


def test_an_edited_document_is_shown_and_sent(hftctl: Any, editor: Any, tmp_path: Path) -> None:
    seen = editor('sed -i "s/skew_ppm: 100/skew_ppm: 33/" "$1"')
    code, said, _ = hftctl("edit", "strategy-mm", "--reason", "by hand")
    assert code == 0 and "skew_ppm: 100 -> 33" in said and "revision 1 -> 2" in said
    text = seen.read_text()
    assert text.startswith("# strategy-mm, revision 1") and "# reason: by hand" in text
    assert stat.S_IMODE(seen.stat().st_mode) == 0o600
    assert left(tmp_path) == []


def test_the_reason_may_be_written_in_the_file(hftctl: Any, editor: Any, tmp_path: Path) -> None:
    editor('sed -i "s/skew_ppm: 100/skew_ppm: 33/; s/^# reason:.*/# reason: in there/" "$1"')
    assert hftctl("edit", "strategy-mm")[0] == 0
    assert json.loads(hftctl("history", "strategy-mm", "-o", "json")[1])[-1]["reason"] == "in there"
    editor('sed -i "s/skew_ppm: 33/skew_ppm: 34/" "$1"')
    code, _, said = hftctl("edit", "strategy-mm")
    assert code == 2 and "no reason" in said and "is kept in" in said


@pytest.mark.parametrize(
    ("line", "code", "why"),
    [
        ("exit 1", 2, "ended with 1: nothing is sent"),
        ("kill -9 $$", 2, "was ended by SIGKILL: nothing is sent"),
        (":", 0, "unchanged, nothing is sent"),
        (': > "$1"', 2, "the file is empty, nothing is sent"),
        ('echo "# only this" > "$1"', 2, "the file is empty, nothing is sent"),
        ('rm "$1"', 2, "the file is empty, nothing is sent"),
    ],
)
def test_an_editor_that_fails_or_saves_nothing_sends_nothing_and_leaves_nothing(
    hftctl: Any, agent: ConfigAgent, editor: Any, tmp_path: Path, line: str, code: int, why: str
) -> None:
    editor(line)
    found, out, err = hftctl("edit", "strategy-mm", "--reason", "x")
    assert found == code and why in out + err
    assert agent.asked == [] and left(tmp_path) == []


def test_an_editor_that_is_not_there_is_one_line(
    hftctl: Any, monkeypatch: pytest.MonkeyPatch, agent: ConfigAgent
) -> None:
    monkeypatch.setenv("VISUAL", "/no/such/editor")
    code, _, said = hftctl("edit", "strategy-mm", "--reason", "x")
    assert code == 2 and "cannot be run" in said and said.count("\n") == 1
    monkeypatch.setenv("VISUAL", "'unfinished")
    assert hftctl("edit", "strategy-mm", "--reason", "x")[0] == 2


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('printf "skew_ppm: 1\\nx: [1\\n" > "$1"', "strategy-mm.yml:3: not YAML"),
        (
            'printf "skew_ppm: 1\\nbreaker:\\n  failures: many\\n# reason: x\\n" > "$1"',
            "strategy-mm.yml:3: strategy-mm: breaker.failures: found",
        ),
    ],
)
def test_what_is_not_right_is_shown_with_its_line_and_the_text_is_kept(
    hftctl: Any, editor: Any, tmp_path: Path, line: str, wanted: str
) -> None:
    editor(line)
    code, _, said = hftctl("edit", "strategy-mm", "--reason", "x")
    assert code == 2 and wanted in said
    (kept,) = left(tmp_path)
    assert kept in said and "skew_ppm: 1" in (tmp_path / "tmp" / kept).read_text()
    assert stat.S_IMODE((tmp_path / "tmp" / kept).stat().st_mode) == 0o600


def test_at_a_terminal_it_is_edited_again_with_the_text_that_was_written(
    hftctl: Any, editor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("\ny\n"))
    editor(
        'if grep -q "skew_ppm: many" "$1"; then sed -i "s/skew_ppm: many/skew_ppm: 34/" "$1"',
        'else sed -i "s/skew_ppm: 100/skew_ppm: many/" "$1"; fi',
    )
    code, said, err = hftctl("edit", "strategy-mm", "--reason", "x")
    assert code == 0 and "edit it again? [Y/n]" in err and "skew_ppm: 100 -> 34" in said
    assert left(tmp_path) == []


def test_a_concurrent_edit_is_shown_with_both_sides_and_ones_own_is_kept(
    hftctl: Any, agent: ConfigAgent, editor: Any, tmp_path: Path
) -> None:
    hftctl_there = f"{sys.executable} -m controlplane.cli.main"
    other = f"{hftctl_there} config set strategy-mm skew_ppm=66 --reason theirs --no-wait > /dev/null"
    editor('sed -i "s/skew_ppm: 100/skew_ppm: 33/" "$1"', other)
    code, _, said = hftctl("edit", "strategy-mm", "--reason", "mine")
    assert code == 1 and "conflict" in said
    assert "skew_ppm: 100 -> 66" in said and "theirs" in said, said
    assert "skew_ppm: 100 -> 33" in said
    (kept,) = left(tmp_path)
    assert kept in said and "skew_ppm: 33" in (tmp_path / "tmp" / kept).read_text()
    assert hftctl("get", "strategy-mm", "skew_ppm")[1] == "66\n"


def test_ctrl_c_in_an_editor_is_the_editors_and_sigterm_leaves_no_file(
    agent: ConfigAgent, editor: Any, tmp_path: Path
) -> None:
    editor("kill -INT $PPID; kill -TERM $PPID; sleep 0.2")
    words = [sys.executable, "-m", "controlplane.cli.main", "config", "edit", "strategy-mm", "--reason", "x"]
    done = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 130 and left(tmp_path) == [], done.stderr
    assert agent.asked == []
