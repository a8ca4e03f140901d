"""What a rollout of a configuration revision does next: `decide` is asked again and again with the newest
view, and the elected controller does what it says (operations/config_rollout.py). Pure.

A stage (canary, then rest) is in force when each of its instances is running, ready and has the revision
acknowledged; then it has to stay good for `watch_s`. What is durable is in the RolloutRecord: the stage, its
instances, how often they had crashed, why it is taken back. What is counted is in `Seen`, by the boot clock
of one controller: another one, and one that did not look for a while, counts the stage anew. So it does when
the service has another spec, as restarts are then none of the configuration's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.config import condition
from controlplane.config.canary import crashes_of, heard_of
from controlplane.errors import InvalidInput
from controlplane.model import ServiceSpec, bounds
from controlplane.model.config import FIRST_REVISION, RolloutRecord, ServiceConfig
from controlplane.model.observed import InstanceStatus
from controlplane.model.records import OperationStep
from controlplane.site.view import SiteView

KIND = "config-rollout"
"""Of its operation."""
TURNS_S = 2.0
"""Not ready, not passing, silent or refusing the revision for so long is not good: less is a hand-over of the
lead, or an agent that is new. A crash and the metric count at once."""
LOOK_GAP_S = 5.0
"""A controller that did not look for so long was stopped, and counts anew."""
NAMED_MAX = 3

IN_FORCE = {"canary": "canary in force", "rest": "rest in force"}
GOOD = {"canary": "canary good", "rest": "rest good"}
PROMOTED, REVERTED = "promoted", "reverted"


@dataclass(frozen=True, slots=True)
class Now:
    boot_ns: int
    silent: frozenset[str] = frozenset()
    """Hosts that have said nothing for so long that their word counts no more."""
    fresh: bool = True
    """The view is what the store has; an older one tells nothing of anybody."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one controller has counted of one stage."""

    stage: str
    instances: frozenset[str]
    spec_revision: int
    began_ns: int
    """Boot clock, as are the others."""
    looked_ns: int
    in_force_ns: int | None = None
    """Since when it is watched."""
    bad_ns: Mapping[str, int] = field(default_factory=dict)
    """Instance -> since when it is not good, or refuses the revision."""
    measured: bool = False
    """The metric was reported."""


@dataclass(frozen=True, slots=True)
class Wait:
    pass


@dataclass(frozen=True, slots=True)
class Change:
    """Write this record in place of the one that was decided on."""

    record: RolloutRecord


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the revision the wanted one of all."""


@dataclass(frozen=True, slots=True)
class End:
    """It has been taken back: the operation ends, and the record goes."""

    outcome: str
    state: str = "failed"
    """`cancelled`: an operator took it back."""
    removed: bool = False
    """As the service is not in the site any more."""


Action = Wait | Change | Promote | End


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    seen: Seen | None
    """To be handed in at the next look."""
    step: str
    """That the operation is at."""
    says: str


def decide(record: RolloutRecord, view: SiteView, seen: Seen | None, now: Now) -> Decision:
    """`seen`: of this record's last decision by the same controller; None: it was none."""
    spec, config = view.specs.get(record.service), view.configs.get(record.service, ServiceConfig())
    step = REVERTED if record.stage == "revert" else IN_FORCE[record.stage]
    if not now.fresh:
        return Decision(Wait(), None, step, "waits: the view of the store is not fresh")
    if spec is None and record.service in view.spec_faults:
        return Decision(Wait(), None, step, "waits: the service's spec does not decode")
    if spec is None:
        why = f"{record.service} was removed from the site"
        return Decision(End(_joined(record.why, why), removed=True), None, REVERTED, why)
    current = config.current.revision if config.current is not None else FIRST_REVISION
    members = tuple(slot.instance for slot in spec.slots())
    if record.stage == "revert":
        return _Look(record, view, members, spec, seen, now).go_back(current)
    if current != record.base:
        return revert(
            record, f"revision {current} became the wanted one meanwhile (it began at {record.base})"
        )
    if record.revision not in config.revisions:
        return revert(record, f"the document of revision {record.revision} is not in the store")
    return _Look(record, view, members, spec, seen, now).go_on()


def revert(record: RolloutRecord, why: str) -> Decision:
    changed = dataclasses.replace(record, stage="revert", why=bounds.cut(why, 1000))
    return Decision(Change(changed), None, REVERTED, f"takes it back: {why}")


class _Look:
    """One look at the instances of a stage."""

    def __init__(
        self,
        record: RolloutRecord,
        view: SiteView,
        members: Sequence[str],
        spec: ServiceSpec,
        seen: Seen | None,
        now: Now,
    ) -> None:
        self.record, self.members, self.now = record, members, now
        self.stage = tuple(name for name in members if name in record.instances)
        """Its instances that there still are."""
        self.heard = heard_of(view, members)
        spec_revision = view.spec_revisions.get(spec.name, 0)
        key = (record.stage, frozenset(record.instances), spec_revision)
        if (
            seen is None
            or (seen.stage, seen.instances, seen.spec_revision) != key
            or now.boot_ns - seen.looked_ns > LOOK_GAP_S * 1e9
        ):
            seen = Seen(*key, began_ns=now.boot_ns, looked_ns=now.boot_ns)
        self.seen = dataclasses.replace(seen, looked_ns=now.boot_ns)

    # --- canary and rest ------------------------------------------------------------------------------------

    def go_on(self) -> Decision:
        record, watching = self.record, self.seen.in_force_ns is not None
        step = (GOOD if watching else IN_FORCE)[record.stage]
        if not self.stage:
            return revert(
                record, f"no canary is left: the spec has no {', '.join(record.instances)} any more"
            )
        if (changed := self._in_order()) is not None:
            return Decision(
                Change(changed), self.seen, step, "follows the spec, and counts crashes from here"
            )
        if why := self._turned():
            return revert(record, why)
        if not watching:
            return self._come_in_force(step)
        return self._watch(step)

    def _in_order(self) -> RolloutRecord | None:
        """The record with the instances that there are, and their crashes; None: it has them."""
        record = self.record
        wanted = tuple(self.members) if record.stage == "rest" else self.stage
        known = {name: count for name, count in record.crashes.items() if name in wanted}
        crashes = crashes_of(self.heard, wanted) | known
        if set(wanted) == set(record.instances) and crashes == record.crashes:
            return None
        return dataclasses.replace(record, instances=wanted, crashes=crashes)

    def _turned(self) -> str:
        """Why it cannot go on, whether it is in force already or not; empty: it can."""
        for name in self.stage:
            found, before = self.heard.get(name), self.record.crashes.get(name)
            if found is not None and before is not None and found.crashes > before:
                why = found.reason if found.state == "backoff" else ""  # else of what it does since
                return f"{name} crashed{_because(why)}"
        watching = self.seen.in_force_ns is not None
        bad = dict(self._not_good() if watching else self._refusing())
        now_ns = self.now.boot_ns
        since = {name: self.seen.bad_ns.get(name, now_ns) for name in bad}
        self.seen = dataclasses.replace(self.seen, bad_ns=since)
        for name, why in bad.items():
            if now_ns - since[name] >= TURNS_S * 1e9:
                return why
        return self._metric_holds() if watching else ""

    def _refusing(self) -> Iterator[tuple[str, str]]:
        for name in self.stage:
            found = self.heard.get(name)
            if found is not None and found.config_refused and found.config_revision != self.record.revision:
                yield name, f"{name} refuses it: {found.config_refused}"

    def _not_good(self) -> Iterator[tuple[str, str]]:
        for name, why in self._not_in_force(self.stage, self.record.revision):
            yield name, f"not good any more: {why}"
        for name in self.stage:
            found = self.heard.get(name)
            if found is not None and found.ready and found.health != "passing":
                yield name, f"not good any more: {name} is {found.health}{_because(found.reason)}"

    def _metric_holds(self) -> str:
        if not self.record.metric:
            return ""
        try:
            metric = condition.parse(self.record.metric)
        except InvalidInput as exc:  # what another client wrote
            return f"what it is watched for cannot be: {exc}"
        for name in self.stage:
            found = self.heard.get(name)
            rate = metric.rate(found) if found is not None and found.host not in self.now.silent else None
            if rate is None:
                continue
            self.seen = dataclasses.replace(self.seen, measured=True)
            if metric.holds(rate):
                return f"the metric has turned: {metric.name} of {name} is {rate:g}/s (watched for: {metric})"
        return ""

    def _come_in_force(self, step: str) -> Decision:
        record, now_ns = self.record, self.now.boot_ns
        missing = [why for _, why in self._not_in_force(self.stage, record.revision)]
        if not missing:
            seen = dataclasses.replace(self.seen, in_force_ns=now_ns)
            return Decision(Wait(), seen, GOOD[record.stage], self._watching())
        if now_ns - self.seen.began_ns >= record.timeout_s * 1e9:
            return revert(record, f"not in force within {record.timeout_s:g} s: {_named(missing, '; ')}")
        return Decision(Wait(), self.seen, step, f"waits for {_named(self.stage)} to have it in force")

    def _watch(self, step: str) -> Decision:
        record = self.record
        over_ns = (self.seen.in_force_ns or 0) + int(record.watch_s * 1e9)
        if self.seen.bad_ns or self.now.boot_ns < over_ns:
            return Decision(Wait(), self.seen, step, self._watching())
        if set(self.stage) != set(self.members):
            changed = dataclasses.replace(
                record,
                stage="rest",
                instances=tuple(self.members),
                crashes=crashes_of(self.heard, self.members),
            )
            return Decision(
                Change(changed), None, IN_FORCE["rest"], f"{_named(self.stage)} good; goes on to all"
            )
        if record.metric and not self.seen.measured:
            return revert(record, f"nobody reports the metric that was to be watched: {record.metric}")
        return Decision(Promote(), self.seen, PROMOTED, f"all good: revision {record.revision} is promoted")

    def _watching(self) -> str:
        record = self.record
        watched = f"watched for {record.watch_s:g} s"
        return f"revision {record.revision} is in force on {_named(self.stage)}; {watched}"

    # --- back -----------------------------------------------------------------------------------------------

    def go_back(self, wanted: int) -> Decision:
        record, state = self.record, "cancelled" if self.record.cancelled else "failed"
        missing = [why for _, why in self._not_in_force(self.members, wanted)]
        if not missing:
            outcome = _joined(record.why, f"revision {wanted} is in force on every instance")
            return Decision(End(outcome, state), self.seen, REVERTED, outcome)
        if self.now.boot_ns - self.seen.began_ns >= record.timeout_s * 1e9:
            names = _named(missing, "; ")
            outcome = _joined(
                record.why,
                f"revision {wanted} is wanted, and after {record.timeout_s:g} s not in force: {names}",
            )
            return Decision(End(outcome, state), self.seen, REVERTED, outcome)
        says = f"waits for revision {wanted} to be in force again everywhere"
        return Decision(Wait(), self.seen, REVERTED, says)

    def _not_in_force(self, names: Sequence[str], revision: int) -> Iterator[tuple[str, str]]:
        """Each that has not this revision in force, and why it has not."""
        for name in names:
            if why := self._why_not(name, self.heard.get(name), revision):
                yield name, f"{name} {why}"

    def _why_not(self, name: str, found: InstanceStatus | None, revision: int) -> str:
        if found is None:
            return "is not heard of"
        if found.host in self.now.silent:
            return f"is not heard of: the agent of {found.host} is silent"
        if found.state != "running":
            return f"is {found.state}{_because(found.reason)}"
        if found.config_revision != revision:
            refused = found.config_refused
            return f"refuses it: {refused}" if refused else f"has revision {found.config_revision}"
        if found.config_refused:
            return f"refuses it: {found.config_refused}"
        return "" if found.ready else f"is not ready{_because(found.reason)}"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _named(names: Sequence[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return between.join(names[:NAMED_MAX]) + more


# --- the steps of its operation -----------------------------------------------------------------------------

REST = (IN_FORCE["rest"], GOOD["rest"])
"""Those of a single instance are not there: it is canary and all."""
ORDER = (IN_FORCE["canary"], GOOD["canary"], *REST, PROMOTED)


def steps(
    told: Sequence[OperationStep], step: str, wall_ns: int, *, state: str = "running", detail: str = ""
) -> tuple[OperationStep, ...]:
    """What was told of an operation, brought to where it is: what came before has succeeded, or has failed
    where it is taken back. A step that took no look is there all the same.
    """
    there = {each.name: each for each in told}
    now = OperationStep(
        step,
        state,
        there[step].started_ns if step in there else wall_ns,
        None if state == "running" else wall_ns,
        detail,
    )
    if step == REVERTED:
        return (*(_closed(each, "failed", wall_ns) for each in told if each.name != REVERTED), now)
    of_rest = step in REST or any(name in there for name in REST)
    before = [name for name in ORDER[: ORDER.index(step)] if of_rest or name not in REST]
    passed = (there.get(name, OperationStep(name, "running", wall_ns)) for name in before)
    return (*(_closed(each, "succeeded", wall_ns) for each in passed), now)


def _closed(step: OperationStep, state: str, wall_ns: int) -> OperationStep:
    if step.finished_ns is not None:
        return step
    return dataclasses.replace(step, state=state, finished_ns=wall_ns)
