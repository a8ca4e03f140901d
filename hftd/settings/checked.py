"""What the checks of all settings share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from controlplane.errors import InvalidInput, InvalidSettings
from hftd.engine import fixed

LogLevel = Literal["", "debug", "info", "warning", "error"]
"""The least that a daemon writes; empty: as its agent's HFT_LOG_LEVEL says, or by hand `logging.level`."""


def positive(daemon: str, **decimals: str) -> None:
    for name, value in decimals.items():
        try:
            units = fixed.parse(value)
        except InvalidInput as exc:
            wanted = "a decimal number such as 0.001, with at most eight places"
            raise InvalidSettings(f"{daemon}.{name}: {exc}", field=name, found=value, wanted=wanted) from exc
        if units <= 0:
            raise InvalidSettings(
                f"{daemon}.{name} {value}: must be above 0", field=name, found=value, wanted="more than 0"
            )


def within(daemon: str, bounds: Mapping[str, tuple[float, float, float]]) -> None:
    for name, (found, least, most) in bounds.items():
        if not least <= found <= most:
            raise InvalidSettings(
                f"{daemon}.{name} {found}: must be {least} to {most}",
                field=name,
                found=found,
                wanted=f"{least} to {most}",
            )
