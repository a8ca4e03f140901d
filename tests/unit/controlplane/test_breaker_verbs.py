"""`hftctl breaker`: durations, and what is refused before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.cli import breaker, main
from controlplane.errors import InvalidInput


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
