"""From checks to the health of an instance, and from instances to that of a service. The worst wins, and the
reason names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from controlplane.health.standing import worst
from controlplane.model.checks import State

OUTPUT_CHARS_MAX = 200
"""Of one check in a reason, which is a line of `status`; `hftctl health` has all of it."""

_OUTPUTS = re.compile(r"\b(check [a-z][a-z0-9_-]*): .*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one check."""

    check: str
    """Its name; empty: what the agent itself knows of the process, whose words need no name."""
    state: State
    output: str = ""


def fold(findings: Iterable[Finding]) -> tuple[State, str]:
    """The health of an instance, and the reason when it is not passing: of the first unnamed one that is as
    bad as that, then of each check that is.
    """
    found = list(findings)
    state = worst(each.state for each in found)
    if state == "passing":
        return state, ""
    bad = [each for each in found if each.state == state]
    said = [each.output for each in bad if not each.check][:1]
    said += [f"check {each.check}: {_line(each.output)}" for each in bad if each.check]
    return state, "; ".join(filter(None, said))


def without_outputs(reason: str) -> str:
    """A reason as any local user may read it: what a check has printed may be another program's secret. The
    name of the first check stays, and nothing behind it.
    """
    return _OUTPUTS.sub(r"\1", reason)


def _line(output: str) -> str:
    line = " ".join(output.split()) or "no output"
    return line if len(line) <= OUTPUT_CHARS_MAX else f"{line[: OUTPUT_CHARS_MAX - 4]} ..."


def of_service(name: str, healths: Collection[str], desired: int) -> tuple[State, str]:
    """The health of a service by that of its instances: passing when all that are desired are, critical when
    none is, else a warning.
    """
    passing = sum(each == "passing" for each in healths)
    if desired <= 0:
        return "critical", f"{name}: no such service in the site"
    said = f"{name}: {passing} of {desired} instances passing"
    if passing >= desired:
        return "passing", said
    return ("warning" if passing else "critical"), said
