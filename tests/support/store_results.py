"""A pytest plugin that writes down which test passed on which store: `-p tests.support.store_results`, with
HFT_STORE_RESULTS naming the JSON file that outcomes are merged into, so that suites may be run one by one.

The store is what the test says in its parameters ("etcd", "consul-1.15.4"), or else what it was seen to use:
a client of that kind that it made, or a floor that was up meanwhile.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.store import consul, etcd, memory
from tests.support import floors

NAMED = re.compile(r"(memory|etcd|consul)(-[\w.]+)?")
NONE = "none"
"""Of a test that needs no store."""

KINDS = {"memory": memory.MemoryStore, "etcd": etcd.EtcdStore, "consul": consul.ConsulStore}

Results = dict[str, dict[str, dict[str, str]]]
"""Test (file::function) -> store with its version, if it names one -> {"outcome", "on"}."""

_seen: set[str] = set()
_outcomes: dict[str, dict[str, str]] = {}


def _watch(kind: str, store: type[Any]) -> None:
    made = store.__init__

    def watched(self: Any, *args: Any, **options: Any) -> None:
        _seen.add(kind)
        made(self, *args, **options)

    store.__init__ = watched


def pytest_configure() -> None:
    for kind, made in KINDS.items():
        _watch(kind, made)


def stores_of(item: pytest.Item) -> set[str]:
    parameters = getattr(item, "callspec", None)
    named = {
        value
        for value in (parameters.params.values() if parameters is not None else ())
        if isinstance(value, str) and NAMED.fullmatch(value)
    }
    if named:
        return named
    if floors.open_floors:
        _seen.add(os.environ.get("HFT_TEST_STORE", "etcd"))
    return set(_seen) or {NONE}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "setup":
        item.stash[_KEY] = "passed"
    worst = item.stash[_KEY]
    if report.failed or (report.skipped and worst == "passed"):
        item.stash[_KEY] = "failed" if report.failed else "skipped"
    if report.when == "call" or not report.passed:
        test = item.nodeid.partition("[")[0]
        for store in stores_of(item):
            known = _outcomes.setdefault(test, {})
            known[store] = max(known.get(store, "passed"), item.stash[_KEY], key=_GRAVITY.index)
    if report.when == "teardown":
        _seen.clear()
    return report


_KEY = pytest.StashKey[str]()
_GRAVITY = ("passed", "skipped", "failed")


def pytest_sessionfinish(session: pytest.Session) -> None:
    named = os.environ.get("HFT_STORE_RESULTS")
    if named is None:
        return
    file, today = Path(named), datetime.now(UTC).date().isoformat()
    results: Results = json.loads(file.read_text()) if file.exists() else {}
    for test, by_store in _outcomes.items():
        fresh = {store: {"outcome": outcome, "on": today} for store, outcome in by_store.items()}
        results.setdefault(test, {}).update(fresh)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
