"""The provisioning play says what it would do and, where all is there, changes nothing: run for real against
the lab inventory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def play(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "ansible",
        "playbook",
        "-i",
        "inventory/lab/hosts.yml",
        "playbooks/site.yml",
        *words,
    ]
    environment = {
        **os.environ,
        "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


def recap(output: str) -> dict[str, dict[str, int]]:
    rows = [line for line in output.splitlines() if " : ok=" in line]
    return {
        row.split()[0]: {key: int(value) for key, value in (field.split("=") for field in row.split()[2:])}
        for row in rows
    }


def test_the_play_s_check_run_finds_nothing_to_do_where_the_host_is_ready() -> None:
    """The machine that runs the tests has been prepared by `make install`; a second run changes nothing."""
    done = play("--check", "--tags", "preflight,install")
    assert done.returncode == 0, done.stdout + done.stderr
    hosts = recap(done.stdout)
    assert set(hosts) == {"alpha", "beta"}
    assert all(row["changed"] == 0 and row["failed"] == 0 and row["ok"] >= 4 for row in hosts.values()), (
        done.stdout
    )


def test_a_host_that_is_too_old_is_refused_with_what_was_found_and_wanted() -> None:
    done = play("--check", "--tags", "preflight", "-e", "floor_host_kernel_min=99.0")
    assert done.returncode != 0
    assert "needs 99.0 or newer" in done.stdout


@pytest.mark.parametrize("variable", ["floor_host_packages=git", "floor_host_kernel_min=[]"])
def test_a_variable_of_the_wrong_shape_is_refused_before_anything_runs(variable: str) -> None:
    key, _, value = variable.partition("=")
    wrong: Any = {"floor_host_packages": {"not": "a list"}, "floor_host_kernel_min": [value]}[key]
    done = play("--check", "-e", json.dumps({key: wrong}))
    assert done.returncode != 0 and key in done.stdout
