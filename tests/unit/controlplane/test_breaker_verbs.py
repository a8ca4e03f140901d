"""`hftctl breaker`: durations, and what is refused before anything is asked."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from controlplane.cli import breaker, main, status_text
from controlplane.errors import InvalidInput
from controlplane.site import document


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1d", 86_400.0)]
)
def test_a_duration_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert breaker.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "m", "5 minutes", "nan", "inf", "1e999", "5w"])
def test_what_is_no_duration_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a duration"):
        breaker.seconds(text)


@pytest.mark.parametrize("verb", ["open", "close", "auto"])
def test_a_reason_is_wanted(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["breaker", verb, "execd.simd", "--site-dir", str(tmp_path)]) == 2
    assert "--reason is missing" in capsys.readouterr().err


def test_status_shows_the_breakers_that_are_not_closed() -> None:
    row = document.BreakerRow(
        "execd.simd", "alpha", "open", "execd-alpha-1", False, "5 failures in a row", None, 9, 5, 0, 2
    )
    closed = msgspec.structs.replace(row, name="omsd.execd", state="closed")
    none = document.Percentiles(None, None, None)
    found = document.StatusDocument(
        site="lab",
        healthy=True,
        store=document.StoreState("etcd", [], True, "3.5", 0.4),
        controller=document.ControllerState(None),
        paused=None,
        hosts=[],
        services=[],
        breakers=[row, closed],
        operations=[],
        alarms=[],
        flow=document.Flow(0, 0.0, 0, 0, 0, 0, 0, 0, none, none),
    )
    said = status_text.text(found)
    assert "circuit breakers that are not closed:" in said
    assert "execd.simd" in said
    assert "omsd.execd" not in said
    quiet = status_text.text(msgspec.structs.replace(found, breakers=[closed]))
    assert "circuit breakers" not in quiet
