"""How many instances of a service may be left out at once, by breakers and balancing together. Pure.

Each on its own is right to leave out an instance that fails. Together, on a day when everything is slow, they
would leave out all, and nothing would be asked any more. So a cap bounds what is left out, the longest out
first; and below a share of healthy instances (the panic threshold) nobody is left out: too few would carry
the load of all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    out_share_max: float = 0.5
    """Of all instances, at most this share is left out. Of one instance: none, unless this is 1."""

    panic_share: float = 0.5
    """With a smaller share of the instances usable, all are used."""


def left_out(
    instances: Collection[str],
    unhealthy: Collection[str],
    wanted_out: Sequence[str],
    limits: Limits = Limits(),
) -> frozenset[str]:
    """Who of `instances` is not asked now.

    `unhealthy` fail their health check; `wanted_out` is what breakers and balancing would leave out, the
    longest out first. Both may name what is no instance (any more).
    """
    known = frozenset(instances)
    down = known.intersection(unhealthy)
    room = int(limits.out_share_max * len(known)) - len(down)
    ejected = [each for each in dict.fromkeys(wanted_out) if each in known and each not in down]
    out = down.union(ejected[: max(0, room)])
    if len(known) - len(out) < limits.panic_share * len(known):
        return frozenset()
    return out
