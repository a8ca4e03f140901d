"""The lock files agree with pyproject.toml and with each other; a floor gets nothing that checks code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXTRAS = {
    "requirements.lock": ["build"],
    "requirements-dev.lock": ["build", "dev"],
    "requirements-provision.lock": ["build", "provision"],
}
PIN = re.compile(r"^([a-z0-9.-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(lock: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / lock).read_text()))


def named(requirements: list[str]) -> set[str]:
    found = {re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in requirements}
    return {re.sub(r"[._-]+", "-", name).lower() for name in found}


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_pins_what_pyproject_names_with_hashes_and_as_the_runtime_does(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = named(project["dependencies"]) | {n for extra in EXTRAS[lock] for n in named(extras[extra])}
    pinned, runtime = pins(lock), pins("requirements.lock")
    assert wanted - pinned.keys() == set()
    assert {name: pinned.get(name) for name in runtime} == runtime
    unhashed = [
        block
        for block in re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text())[1:]
        if "--hash=sha256:" not in block
    ]
    assert unhashed == []


def test_a_floor_is_installed_without_what_checks_code_and_prepares_hosts() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    runtime = pins("requirements.lock")
    assert (named(extras["dev"]) | named(extras["provision"])) & runtime.keys() == set()
    assert "pydantic" not in runtime  # typer before 0.29 does without it (ADR 0026)
