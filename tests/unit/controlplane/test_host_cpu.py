"""Where the shared pages can be trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.errors import InvalidSettings
from controlplane.host import cpu
from hftd.shm import pages


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "i686"])
def test_a_machine_whose_stores_are_ordered_will_do(machine: str) -> None:
    cpu.require_ordered_stores(machine)


@pytest.mark.parametrize("machine", ["aarch64", "arm64", "ppc64le", "riscv64", ""])
def test_another_is_refused_by_name_and_no_page_is_opened_there(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSettings, match=f"this machine is {machine}; wanted x86-64"):
        cpu.require_ordered_stores(machine)
    path = tmp_path / "lease"
    pages.create(path, pages.LEASE_MAGIC)
    monkeypatch.setattr(cpu, "ORDERED", frozenset({"another"}))
    with pytest.raises(InvalidSettings):
        pages.LeasePage(path)
