"""Captures that each showed a fault, as an operator meets them: played by real simd, marketd and bookd, and
given to `hftctl data verify`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fault import test_lost_books as lost_books
from tests.fault.test_lost_books import alarms, books, ended
from tests.support import cases, floors

folder, shift = lost_books.folder, lost_books.shift


@pytest.mark.parametrize(
    ("case", "applied", "bad_line"),
    [
        ("20-receive-times/healthy", 10, 0),
        ("20-receive-times/over-int64", 5, 7),
        ("20-receive-times/year-2034", 10, 7),
        ("20-receive-times/hour-ahead", 10, 7),
        ("20-receive-times/hour-back", 10, 7),
        ("21-verify-crash/crash", 2, 4),
        ("04-partial-depth/mixed-spot", 20, 0),
        ("07-microseconds/microseconds", 10, 0),
        ("26-id-over-64-bits/pu", 2, 0),
    ],
)
def test_one_simd_and_one_marketd_play_a_case_to_its_end_and_name_what_is_wrong(
    folder: Path, case: str, applied: int, bad_line: int, shift: cases.Shift
) -> None:
    with lost_books.played(folder, case, shift) as floor:
        floor.until(lambda: ended(floor), "the end of the tape")
        (path,) = (folder / Path(case).name).rglob("*.gz")
        floor.until(lambda: [one["applied"] for one in books(floor).values()] == [applied], "every good diff")
        of_simd, of_marketd = (
            {id for id in alarms(floor, daemon) if id.startswith(("tape_bad_lines", "undecodable"))}
            for daemon in ("simd", "marketd")
        )
        if case.startswith("26"):  # what the line holds is wrong: marketd and the venue say so
            (name,) = books(floor)
            assert of_marketd == {f"undecodable:{name}"}
            assert "over 64 bits" in alarms(floor, "marketd")[f"undecodable:{name}"]
        else:
            assert of_marketd == set()
            assert of_simd == ({f"tape_bad_lines:{path}"} if bad_line else set())
        if bad_line:
            assert f"{path} line {bad_line}: " in alarms(floor, "simd")[f"tape_bad_lines:{path}"]
        assert all(process.poll() is None for process in floor.processes.values())


def test_data_verify_of_a_case_reports_whole_on_standard_output_alone(
    tmp_path: Path, shift: cases.Shift
) -> None:
    hftctl = floors.Floor(tmp_path / "no-floor")
    done = hftctl.run(
        "data", "verify", str(cases.capture(tmp_path, "21-verify-crash/crash", shift)), "-o", "json"
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert [bad["line"] for bad in json.loads(done.stdout)["bad_lines"]] == [4]


def test_a_folder_that_names_no_market_is_refused_on_one_line(tmp_path: Path, shift: cases.Shift) -> None:
    hftctl = floors.Floor(tmp_path / "no-floor")
    unknown = cases.capture(tmp_path, "19-folders-and-file-names/unknown-folder", shift)
    for words in (("data", "verify", str(unknown)), ("up", "--tape", str(unknown))):
        done = hftctl.run(*words)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and "'coinm'" in line and "spot, usdm, cm" in line, words
