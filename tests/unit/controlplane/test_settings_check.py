"""A document against its daemon's schema, and which settings only a restart changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from controlplane.config import documents
from controlplane.errors import InvalidInput, TooLarge
from controlplane.model import Mode
from controlplane.model.specs import DaemonKind
from controlplane.specs import read, settings_check
from tests.support import configured
from tests.support.configured import RISKD


@dataclass(frozen=True)
class Inner:
    path: str = field(default="", metadata={"restart": True})
    limit: int = 1


@dataclass(frozen=True)
class Settings:
    plain: int = 1
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    perhaps: Inner | None = None
    books: tuple[str, ...] = field(default=(), metadata={"service": "bookd"})


def kind(settings: type, live: bool) -> DaemonKind:
    return DaemonKind("x", settings, frozenset({Mode.SINGLETON}), "x", live=live)


def test_a_document_is_completed_and_comes_back_as_the_store_has_it() -> None:
    found = settings_check.check(RISKD, {"max_position": "5", "breaker": {"open_s": 2}}, "riskd")
    assert found == configured.spec(max_position="5", breaker={"open_s": 2.0}).settings
    assert found["markets"] == ["spot", "usdm"] and found["breaker"] == {"failures": 5, "open_s": 2.0}
    assert settings_check.check(RISKD, found, "riskd") == found


def test_every_fault_is_named_on_a_line_with_its_path() -> None:
    bad: dict[str, Any] = {"markets": ["spot", 7], "breaker": {"failures": "x", "opn_s": 1}, "burst": 1.5}
    with pytest.raises(InvalidInput) as refused:
        settings_check.check(RISKD, bad, "riskd")
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[2].partition(":")[0].strip() for line in lines] == [
        "markets.1",
        "breaker.failures",
        "breaker.opn_s",
        "burst",
    ]
    assert all(line.startswith("riskd: ") and ", wanted " in line for line in lines)
    many = {f"no_{number}": 1 for number in range(1000)}
    with pytest.raises(InvalidInput) as refused:
        settings_check.check(RISKD, many, "riskd")
    assert len(str(refused.value).splitlines()) == settings_check.FINDINGS_MAX


@pytest.mark.parametrize("value", ["line\nbreak", "\x1b[31m", "a" * 500])
def test_whatever_is_quoted_the_message_is_one_line(value: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        settings_check.check(RISKD, {"burst": value}, "riskd")
    assert str(refused.value).isprintable() and len(str(refused.value)) < 200


def test_the_size_is_judged_before_the_schema() -> None:
    with pytest.raises(TooLarge, match=f"wanted at most {documents.DOCUMENT_BYTES_MAX}"):
        settings_check.check(RISKD, {"x": "y" * 1_000_000}, "riskd")


def test_only_a_restart_changes_what_the_daemon_says_and_what_names_a_service() -> None:
    assert settings_check.restart_fields(RISKD) == ("folder", "tops")
    assert settings_check.restart_fields(kind(Settings, live=True)) == ("inner", "many", "perhaps", "books")
    assert settings_check.restart_fields(kind(Settings, live=False)) == (
        "plain", "inner", "many", "perhaps", "books"
    )  # fmt: skip


def test_every_installed_daemon_says_it_and_a_services_file_has_it_in_its_specs() -> None:
    kinds = read.installed_kinds()
    assert kinds
    for each in kinds.values():
        named = {name.partition(".")[0] for name in settings_check.services_named(each, {})}
        restart = settings_check.restart_fields(each)
        assert named <= set(restart)
        assert settings_check.restart_fields(replace(each, live=False)) == tuple(
            each.settings.__dataclass_fields__
        )


def test_the_services_that_a_document_names_are_found_by_path() -> None:
    found = settings_check.services_named(kind(Settings, live=True), {"books": ["spot-books", "usdm-books"]})
    assert found == {"books": ("spot-books", "usdm-books")}
