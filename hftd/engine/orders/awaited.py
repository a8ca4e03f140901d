"""Orders that the next hop has not answered yet: each is one call of the breaker towards it. Pure.

An order is answered by whatever is said of it, a refusal too. One that is not answered in time counts against
the next hop, unless that was heard since the order left: then it is alive, what is missing is somebody's
behind it, and that one's own breaker is the hop after. Only orders come here; cancels pass whatever the
breaker's state.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from controlplane.errors import InvalidSettings
from controlplane.resilience import backoff
from controlplane.resilience.breaker import Breaker, Settings
from controlplane.resilience.outcome import Outcome
from controlplane.resilience.windows import Consecutive

AWAITED_MAX = 10_000
"""Orders without an answer that are watched; the oldest beyond that are given up as unknown."""

JITTER = 0.2
"""Of an open time that grows, so that hosts whose venue has gone do not all come back at one moment."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    answer_s: float = 1.0
    """The next hop has to say something of an order within this."""

    failures: int = 5
    """Orders in a row without an answer, at which the breaker opens: new orders are then refused at once,
    cancels pass."""

    successes: int = 2
    """Orders that must be answered when it is tried again, before all orders pass."""

    open_s: float = 1.0
    """How long it stays open before it is tried."""

    open_max_s: float = 30.0
    """Each trial that fails doubles the open time, up to this."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("answer_s", 0.01, 60),
            ("failures", 1, 1_000_000),
            ("successes", 1, 1_000),
            ("open_s", 0.01, 3600),
            ("open_max_s", self.open_s, 3600),
        ):
            if not least <= getattr(self, name) <= most:
                found = getattr(self, name)
                raise InvalidSettings(
                    f"breaker.{name} {found}: must be {least} to {most}",
                    field=name,
                    found=found,
                    wanted=f"{least} to {most}",
                )

    def breaker(self) -> Settings:
        grows = self.open_max_s > self.open_s
        policy = backoff.Policy(
            self.open_s, factor=2.0 if grows else 1.0, max_s=self.open_max_s, jitter=JITTER if grows else 0.0
        )
        return Settings(
            Consecutive(self.failures),
            policy,
            success_threshold=self.successes,
            half_open_permits=self.successes,
        )


@dataclass(frozen=True, slots=True)
class RiskBreaker(BreakerSettings):
    """riskd answers a hello each second, so one that works has been heard within `answer_s`."""

    answer_s: float = 1.5
    open_s: float = 10.0
    open_max_s: float = 10.0


class Awaited:
    def __init__(self, breaker: Breaker, settings: BreakerSettings) -> None:
        self.breaker = breaker
        self._answer_ns = int(settings.answer_s * 1e9)
        self._sent: dict[Hashable, tuple[int, int]] = {}
        """Permit and when it left, the oldest first."""

    def __len__(self) -> int:
        return len(self._sent)

    def configure(self, settings: BreakerSettings) -> None:
        """Of orders that wait already, too; the breaker keeps its state."""
        self._answer_ns = int(settings.answer_s * 1e9)
        self.breaker.configure(settings.breaker())

    def permit(self, now_ns: int) -> int | None:
        """None: no order goes there now."""
        return self.breaker.permit(now_ns)

    def unsent(self, permit: int, now_ns: int) -> None:
        """It could not be handed over at all."""
        self.breaker.record(permit, Outcome.FAIL, now_ns)

    def sent(self, order: Hashable, permit: int, now_ns: int) -> None:
        self._sent[order] = (permit, now_ns)
        if len(self._sent) > AWAITED_MAX:
            oldest = next(iter(self._sent))
            self.breaker.release(self._sent.pop(oldest)[0])

    def answered(self, order: Hashable, now_ns: int) -> None:
        """Something was said of it; of an order that is not awaited it is nothing."""
        sent = self._sent.pop(order, None)
        if sent is not None:
            self.breaker.record(sent[0], Outcome.OK, now_ns, now_ns - sent[1])

    def tick(self, now_ns: int, heard_ns: int = 0) -> None:
        """Give up what has waited too long. `heard_ns`: when the next hop was last heard; 0 where every
        missing answer is its own fault.
        """
        while self._sent:
            order, (permit, sent_ns) = next(iter(self._sent.items()))
            if now_ns - sent_ns < self._answer_ns:
                return
            del self._sent[order]
            if heard_ns > sent_ns:
                self.breaker.release(permit)
            else:
                self.breaker.record(permit, Outcome.FAIL, now_ns)

    def another_process(self, now_ns: int) -> None:
        """Another one is at the other end: it owes no answers, and is tried at once."""
        for permit, _ in self._sent.values():
            self.breaker.release(permit)
        self._sent.clear()
        self.breaker.another_callee(now_ns, "another process answers there")
