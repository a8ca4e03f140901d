"""The table of tests by store, docs/tests-by-store.md, from what the suites wrote down (store_results.py).

`python -m tests.support.store_table RESULTS DOC` writes it. A test that failed or was skipped is not hidden:
the table is not written, and each is named. tests/unit/test_store_table.py holds the table against the
sources.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.store_results import NONE, Results

ROOT = Path(__file__).resolve().parent.parent.parent
LANES = ("contract", "story", "fault")
COLUMNS = ("memory", "etcd", "consul")
PASSED, NOT_RUN, NEEDS_NONE = "passed", "-", "needs no store"
ROW = re.compile(r"^\| `(?P<test>test_\w+)` \| (?P<cells>.*) \|$")
FILE = re.compile(r"^### `(?P<file>tests/[\w/]+\.py)`$")

HEAD = """# Every contract, story and fault test by store

Written by `make store-table` from the suites' own results; do not edit. "passed" is the outcome of the last
run on that store, on the day that the file's heading names. "-" means that the test was not run over that
store: many faults of a keeper run over the store in memory, where an answer can be lost at a chosen moment,
and those of the real stores over both of them. A test that is not here has not been recorded yet.
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A test as its file has it."""

    doc: str
    skipped: bool
    """By a mark: it never runs."""


def sources(file: Path) -> dict[str, Source]:
    found = {}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            doc = " ".join((ast.get_docstring(node) or "").split())
            found[node.name] = Source(doc, any(".skip" in mark for mark in marks))
    return found


def rows(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """File, test and cells of each row of a rendered table."""
    file = ""
    for line in text.splitlines():
        if heading := FILE.match(line.partition(" (")[0]):
            file = heading["file"]
        elif row := ROW.match(line):
            yield file, row["test"], row["cells"].split(" | ")


def faults(results: Results) -> list[str]:
    """What must not be in a table: a test that failed, was skipped, or is not there any more."""
    found = []
    for test, by_store in sorted(results.items()):
        file, _, name = test.partition("::")
        path = ROOT / file
        if not path.exists() or name not in sources(path):
            found.append(f"{test}: no such test any more (remove it from the results)")
        for store, result in sorted(by_store.items()):
            if result["outcome"] != PASSED:
                found.append(f"{test} on {store}: {result['outcome']} on {result['on']}")
    return found


def _cell(by_store: Mapping[str, Mapping[str, str]], column: str) -> str:
    if NONE in by_store:
        return NEEDS_NONE
    versions = sorted(store.partition("-")[2] for store in by_store if store.partition("-")[0] == column)
    named = [version for version in versions if version]
    if not versions:
        return NOT_RUN
    return f"{PASSED} (also {', '.join(named)})" if named else PASSED


def render(results: Results) -> str:
    lines = [HEAD]
    for lane in LANES:
        of_lane = {test: found for test, found in results.items() if test.startswith(f"tests/{lane}/")}
        lines += [f"## {lane.capitalize()}", ""]
        for file in sorted({test.partition("::")[0] for test in of_lane}):
            of_file = {
                test.partition("::")[2]: found
                for test, found in of_lane.items()
                if test.partition("::")[0] == file
            }
            last = max(result["on"] for found in of_file.values() for result in found.values())
            lines += [f"### `{file}` ({last})", "", f"| test | {' | '.join(COLUMNS)} |", "|---|---|---|---|"]
            for name in (each for each in sources(ROOT / file) if each in of_file):
                cells = " | ".join(_cell(of_file[name], column) for column in COLUMNS)
                lines.append(f"| `{name}` | {cells} |")
            lines.append("")
    lines += ["## Differences, each a test", ""]
    for test in sorted(results):
        file, _, name = test.partition("::")
        if "difference" in name:
            said = sources(ROOT / file)[name].doc
            lines.append(f"- `{name}`{': ' + said if said else ''}")
    return "\n".join(lines) + "\n"


def main() -> int:
    file, doc = map(Path, sys.argv[1:3])
    results: Results = json.loads(file.read_text())
    if wrong := faults(results):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    doc.write_text(render(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
