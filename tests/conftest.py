"""Fixtures that every lane shares. The recorded market data is never committed: tests that need it say so and are skipped without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def recorded_data() -> Path | None:
    """The folder binance-2024-08-08, from HFT_RECORDED_DATA or beside the checkout."""
    places = [Path(os.environ["HFT_RECORDED_DATA"])] if "HFT_RECORDED_DATA" in os.environ else [ROOT.parent / "shared" / "data"]
    for place in places:
        folder = place / "binance-2024-08-08"
        if folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def recorded() -> Path:
    folder = recorded_data()
    if folder is None:
        pytest.skip("recorded market data is not here (set HFT_RECORDED_DATA to the folder that holds binance-2024-08-08)")
    return folder
