"""docs/tests-by-store.md against the sources: a test that it names and was renamed, removed, or is marked
to be skipped must not stand there as passed.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import store_table

TABLE = store_table.ROOT / "docs" / "tests-by-store.md"


def test_every_test_in_the_table_is_there_runs_and_passed() -> None:
    found = list(store_table.rows(TABLE.read_text()))
    assert len(found) > 100
    for file, name, cells in found:
        path = store_table.ROOT / file
        assert path.exists(), f"{file} is gone: make store-table"
        source = store_table.sources(path).get(name)
        assert source is not None, f"{file}::{name} was renamed or removed: make store-table"
        assert not source.skipped, f"{file}::{name} is skipped and stands in the table as passed"
        assert len(cells) == len(store_table.COLUMNS)
        allowed = (store_table.PASSED, store_table.NOT_RUN, store_table.NEEDS_NONE)
        assert all(cell.partition(" (")[0] in allowed for cell in cells), (name, cells)
        assert any(cell != store_table.NOT_RUN for cell in cells), name


def test_the_contract_and_the_faults_of_the_store_are_in_it_on_both_stores() -> None:
    named = {(file, name): cells for file, name, cells in store_table.rows(TABLE.read_text())}
    on_both = ("tests/contract/test_store.py", "tests/contract/test_store_watches.py")
    for file in on_both:
        for name in store_table.sources(store_table.ROOT / file):
            assert (file, name) in named, f"{file}::{name} is missing: make store-table"
    for (file, name), cells in named.items():
        both = dict(zip(store_table.COLUMNS, cells, strict=True))
        if (file in on_both or "/test_store_" in file) and "only_memory" not in name:
            one_sided = name == "test_a_consul_that_is_too_old_is_named_with_what_is_wanted"
            assert both["consul"].startswith(store_table.PASSED), name
            assert one_sided or both["etcd"].startswith(store_table.PASSED), name


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_test_that_did_not_pass_keeps_the_table_from_being_written(outcome: str) -> None:
    test = "tests/contract/test_store.py::test_a_key_that_was_never_written_is_none"
    good = {"etcd": {"outcome": "passed", "on": "2026-01-01"}}
    assert store_table.faults({test: good}) == []
    bad = good | {"consul": {"outcome": outcome, "on": "2026-01-01"}}
    assert store_table.faults({test: bad}) == [f"{test} on consul: {outcome} on 2026-01-01"]
    gone = "tests/contract/test_store.py::test_that_was_renamed"
    assert "no such test any more" in store_table.faults({gone: good})[0]


def test_a_mark_that_skips_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "test_a.py"
    file.write_text("@pytest.mark.skipif(True, reason='x')\nasync def test_a() -> None:\n    ...\n")
    assert store_table.sources(file)["test_a"].skipped
