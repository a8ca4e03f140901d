"""`hftctl config` and an agent that it asks, for the tests of its verbs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator

import pytest

from controlplane.cli import main
from controlplane.model import Mode
from tests.support.agents import spec
from tests.support.config_agent import ConfigAgent, config_agent


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[ConfigAgent]:
    """With a strategy of one instance, and an auditd of two."""
    strategy = spec("strategy-mm", daemon="strategyd")
    auditd = spec("auditd", "alpha", "beta", mode=Mode.ACTIVE_STANDBY)
    with config_agent(strategy, auditd) as one:
        monkeypatch.setenv("HFT_SITE_DIR", str(one.site_dir))
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        yield one


@pytest.fixture
def hftctl(agent: ConfigAgent, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`hftctl config ...`, to its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main.run(["config", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
