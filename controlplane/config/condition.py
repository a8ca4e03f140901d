"""The named metric that a rollout watches: `NAME > VALUE` or `NAME < VALUE`, of the rates that instances'
counters have, in changes a second over the last report. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.errors import InvalidInput
from controlplane.model.observed import InstanceStatus

NAMES_SHOWN = 20
_FORM = re.compile(
    r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*(\{[^{}\x00-\x1f\x7f]*\})?)\s*(?P<sign>[<>])\s*(?P<value>\S+)\s*"
)


@dataclass(frozen=True, slots=True)
class Condition:
    name: str
    above: bool
    value: float
    """Changes a second."""

    def __str__(self) -> str:
        return f"{self.name} {'>' if self.above else '<'} {self.value:g}"

    def rate(self, instance: InstanceStatus) -> float | None:
        """None: it does not report it now."""
        return instance.rates.get(self.name)

    def holds(self, rate: float) -> bool:
        return rate > self.value if self.above else rate < self.value


def parse(text: str) -> Condition:
    """Raises InvalidInput."""
    found = _FORM.fullmatch(text)
    try:
        value = float(found["value"]) if found else math.nan
    except ValueError:
        value = math.nan
    if found is None or not math.isfinite(value):
        raise InvalidInput(
            f'metric "{text}": wanted NAME > VALUE or NAME < VALUE, such as "refused > 5" (changes a second)'
        )
    return Condition(found["name"], found["sign"] == ">", value)


def check(text: str, service: str, instances: Iterable[InstanceStatus]) -> Condition:
    """A condition that can be watched. `instances`: those of the service that are heard of.

    Raises:
        InvalidInput: it is malformed, or no instance reports that metric; with those that there are.
    """
    condition = parse(text)
    there = sorted({name for each in instances for name in each.rates})
    if condition.name not in there:
        more = f" and {len(there) - NAMES_SHOWN} more" if len(there) > NAMES_SHOWN else ""
        raise InvalidInput(
            f'metric "{condition.name}": no instance of {service} reports it (there are '
            f"{', '.join(there[:NAMES_SHOWN]) or 'none'}{more})"
        )
    return condition
