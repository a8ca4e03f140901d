"""Exact decimals: text to integer units of 1e-8 and back, never through float. Pure."""

from __future__ import annotations

import re

from controlplane.errors import InvalidInput

UNIT = 100_000_000
DIGITS = 8
INT64_MAX = (1 << 63) - 1

_NUMBER = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,18}))?")


def parse(text: str) -> int:
    """Units of 1e-8. Raises InvalidInput for what is not a plain decimal, has more than eight places, or does
    not fit into 64 bits.
    """
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text!r} is not a plain decimal number such as 0.001")
    sign, whole, places = found.group(1), found.group(2), (found.group(3) or "").rstrip("0")
    if len(places) > DIGITS:
        raise InvalidInput(f"{text!r} has more than {DIGITS} decimal places")
    units = int(whole) * UNIT + int(places.ljust(DIGITS, "0"))
    if units > INT64_MAX:
        raise InvalidInput(f"{text!r} does not fit into 64 bits of 1e-8")
    return -units if sign else units


def text(units: int) -> str:
    """The shortest exact decimal: 100000 is "0.001", 0 is "0"."""
    whole, rest = divmod(abs(units), UNIT)
    places = f".{rest:0{DIGITS}d}".rstrip("0") if rest else ""
    return f"{'-' if units < 0 else ''}{whole}{places}"
