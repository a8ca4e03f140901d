"""How a leader lease divides its time: renewing, giving up, fencing, clock error; and the inequalities that
keep two leaders apart.

A follower takes the lead one whole lease after the last change of the leader record that it saw, by its own
clock. Whatever the old leader's store, clock and process did meanwhile, its last order must have left before.
That argument (rule R1) is this file's; agents/keeper only spends its numbers. Pure. The story goes on in
decide.py, which decides with a budget, and transactions.py, which writes what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from controlplane.errors import InvalidSettings

CLOCK_ERROR_MAX = 500e-6
"""Share by which one boot-time clock may be wrong: the kernel slews by at most 500 ppm."""

RENEWALS_MIN = 3
"""How many renewals must fit before the deadline: two in a row may be lost without consequence."""


@dataclass(frozen=True, slots=True)
class Budget:
    lease_s: float
    """How long a follower waits after the last change that it saw; what losing a whole host costs."""

    renew_every_s: float
    """From one renewal's send to the next one's."""

    renew_deadline_s: float
    """So long after the SEND of the last good renewal (R3) no new order leaves; the lease word carries this
    moment."""

    try_s: float
    """Deadline of one try at one member of the store. A renewal whose member hangs costs a try and, to learn
    what became of it, another at the next member."""

    fence_s: float
    """From the deadline to the last order that can still leave: a turn of the slowest poll loop and one send.
    Margin, safety does not rest on it."""

    @property
    def clock_error_s(self) -> float:
        """The most that ONE host's clock may err over a lease; both the leader's and the follower's count
        (R1).
        """
        return self.lease_s * CLOCK_ERROR_MAX

    @property
    def margin_s(self) -> float:
        """What lies between the old leader's last order and the new one's first moment, at worst; negative:
        two leaders at once.
        """
        return self.lease_s - self.renew_deadline_s - 2 * self.clock_error_s - self.fence_s

    @property
    def lease_ns(self) -> int:
        return int(self.lease_s * 1e9)

    @property
    def lease_ms(self) -> int:
        return int(self.lease_s * 1e3)

    @property
    def renew_every_ns(self) -> int:
        return int(self.renew_every_s * 1e9)

    @property
    def renew_deadline_ns(self) -> int:
        return int(self.renew_deadline_s * 1e9)

    def checked(self) -> Budget:
        """Return self when it is safe and bearable.

        Raises:
            InvalidSettings: a part is not positive, or the parts do not fit into the lease; nothing may lead
            with them.
        """
        parts = {
            "renew_every_s": self.renew_every_s,
            "renew_deadline_s": self.renew_deadline_s,
            "try_s": self.try_s,
            "fence_s": self.fence_s,
        }
        for name, value in parts.items():
            if value <= 0:
                raise InvalidSettings(f"{name}: found {value}, wanted more than 0")
        if self.margin_s <= 0:  # R1
            raise InvalidSettings(
                f"lease_s {self.lease_s}: renew_deadline_s {self.renew_deadline_s} + fence_s {self.fence_s} "
                f"+ clock error {2 * self.clock_error_s:.4f} s must stay below it (over by "
                f"{-self.margin_s:.3f} s)"
            )
        if RENEWALS_MIN * self.renew_every_s > self.renew_deadline_s:
            raise InvalidSettings(
                f"renew_every_s {self.renew_every_s}: {RENEWALS_MIN} renewals must fit into "
                f"renew_deadline_s {self.renew_deadline_s}, "
                f"found {self.renew_deadline_s / self.renew_every_s:.1f}"
            )
        if self.renew_every_s + 2 * self.try_s >= self.renew_deadline_s:
            raise InvalidSettings(
                f"try_s {self.try_s}: renew_every_s {self.renew_every_s} and two tries, one that hangs and "
                f"one that reads what became of it, must stay below renew_deadline_s {self.renew_deadline_s}"
            )
        return self


SAFE = Budget(lease_s=2.5, renew_every_s=0.5, renew_deadline_s=2.0, try_s=0.3, fence_s=0.2).checked()
"""Outlasts an election of a default etcd cluster (1 to 2 s without writes)."""

DEFAULT = Budget(lease_s=1.5, renew_every_s=0.3, renew_deadline_s=1.1, try_s=0.3, fence_s=0.1).checked()
"""A keeper killed and restarted, or one slow store try, changes no role."""

FAST = Budget(lease_s=0.6, renew_every_s=0.1, renew_deadline_s=0.4, try_s=0.1, fence_s=0.05).checked()
"""For a store that was measured first: any hiccup over 0.4 s stops trading."""

LEASE_BELIEVED_S = (0.3, 30.0)
"""A lease that a leader record names is believed between these: no profile comes near either end."""


def believed_lease_ns(lease_ms: int) -> int:
    """The lease that a leader record names, in ns; 0 for one that names none, or none that is believed."""
    least_s, most_s = LEASE_BELIEVED_S
    return lease_ms * 1_000_000 if least_s <= lease_ms / 1000 <= most_s else 0


PROFILES: Mapping[str, Budget] = MappingProxyType({"safe": SAFE, "default": DEFAULT, "fast": FAST})


def profile(name: str) -> Budget:
    """The budget of that name.

    Raises:
        InvalidSettings: there is no such profile.
    """
    if name not in PROFILES:
        raise InvalidSettings(f"profile {name!r}: expected one of {', '.join(PROFILES)}")
    return PROFILES[name]
