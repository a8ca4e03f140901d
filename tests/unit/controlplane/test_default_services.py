"""Which services file `up` takes when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from controlplane.floor import up


def test_a_file_of_the_current_folder_is_not_taken_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for site in ("lab", "other"):
        (tmp_path / "inventory" / site).mkdir(parents=True)
        (tmp_path / "inventory" / site / "services.yml").write_text("services: {}")
    monkeypatch.chdir(tmp_path)
    assert up.default_services("lab") == Path(up.__file__).parents[2] / "inventory/lab/services.yml"
    with pytest.raises(
        InvalidInput, match=r"name the services file with --services inventory/other/services\.yml"
    ):
        up.default_services("other")


def test_without_any_the_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="with --services FILE"):
        up.default_services("other")
