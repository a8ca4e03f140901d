"""How many instances of a service may be left out at once. Pure. Discovery's user of it is
registry/discovery/ejection.py, which says who is wanted out and for how long.

Each on its own is right to leave out an instance that fails. Together, on a day when everything is slow, they
would leave out all, and nothing would be asked any more. So a cap bounds what is left out, the longest out
first; and below a share of healthy instances (the panic threshold) nobody is left out: too few would carry
the load of all.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from controlplane.errors import InvalidSettings

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Limits:
    out_share_max: float = 0.5
    """Of all instances, at most this share is left out. Of one instance: none, unless this is 1."""

    panic_share: float = 0.5
    """With a smaller share of the instances usable, all are used."""

    def __post_init__(self) -> None:
        if not (0 <= self.out_share_max <= 1 and 0 <= self.panic_share <= 1):
            raise InvalidSettings(
                f"ejection: out_share_max {self.out_share_max}, panic_share {self.panic_share}; expected "
                "shares from 0 to 1"
            )


def left_out(
    instances: Collection[T],
    unhealthy: Collection[T],
    wanted_out: Sequence[T],
    limits: Limits = Limits(),
) -> frozenset[T]:
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
