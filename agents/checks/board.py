"""The checks of this host's instances and how they stand: what runs (prober.py) and what is said of it.

Every instance has `process` and `heartbeat`, which health.py judges from what the agent knows; services.yml
adds others, and may give these two other terms. A change is an event, once; a change of an instance's health
is told, as its registration says it. Rows for `hftctl health`, gauges for metrics, and the fold of all into
an instance's health are asked for here, and come from memory.

What is not run by an agent (a service that is only registered) can have checks too: it is a Subject like any
other, without `process` and `heartbeat`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents.checks.prober import WITHIN, Job, Prober
from agents.checks.target import OUTPUT_BYTES_MAX, Result, Target, cut
from controlplane import clock, health
from controlplane.errors import InvalidInput
from controlplane.health import Finding, Standing
from controlplane.model import checks
from controlplane.model.checks import State
from controlplane.site import look

PROCESS = checks.ProcessCheck(name="process")
HEARTBEAT = checks.HeartbeatCheck(name="heartbeat")
EVENT_CHARS_MAX = 300
"""Of a check's output in an event."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked: one instance and the checks that are configured for it."""

    target: Target
    configured: tuple[checks.Check, ...] = ()
    ours: bool = True
    """An agent runs it, so that its process and its heartbeat are known."""
    led: bool = False
    """It is of a group with a leader: its registration stays whatever a check says, as fencing finds its
    endpoints there and its keeper takes a member without one for not ready."""

    def all(self) -> Iterator[checks.Check]:
        kinds = {type(each) for each in self.configured}
        if self.ours:
            yield from (each for each in (PROCESS, HEARTBEAT) if type(each) not in kinds)
        yield from self.configured


class Row(msgspec.Struct, frozen=True):
    """A line of `hftctl health`; the names are its JSON keys, to which may be added."""

    service: str
    instance: str
    check: str
    kind: str
    state: str
    since: str | None
    output: str
    next_at: str | None
    """None: it is not run, as its instance does not."""


@dataclass(slots=True, eq=False)
class _Kept:
    """One check and how it stands."""

    job: Job
    standing: Standing
    since_wall_ns: int
    told: State = "passing"
    """As the events have it."""
    called_mono_s: float = 0.0
    """Of a TTL: the last call, or its beginning."""
    took_s: float = 0.0

    @property
    def check(self) -> checks.Check:
        return self.job.check

    @property
    def at_once(self) -> bool:
        """Judged whenever it is asked for: one result decides, and costs nothing."""
        return (
            isinstance(self.check, checks.ProcessCheck | checks.HeartbeatCheck)
            and self.check.failures == self.check.successes == 1
        )


class Board:
    def __init__(
        self,
        folder: Path,
        *,
        report: Callable[..., None],
        changed: Callable[[], None],
        wall_ns: Callable[[], int],
        known: Callable[[str], tuple[Finding, Finding] | None],
        service: Callable[[str], tuple[State, str]],
        owner: str = "",
    ) -> None:
        """`folder`: of the check scripts. `changed` is called when an instance's health is another, or when
        its registration is to go or to come back. `known(instance)`: what the agent knows of its process and
        of its heartbeat; `service(name)`: how a service of the site is, for aliases; `owner`: what this agent
        and the next one of its host are called.
        """
        self._report, self._changed, self._wall_ns = report, changed, wall_ns
        self._known, self._service = known, service
        self._subjects: dict[str, Subject] = {}
        self._kept: dict[str, dict[str, _Kept]] = {}
        self._healths: dict[str, State] = {}
        self.prober = Prober(folder, self._within, self._taken, owner)

    def __repr__(self) -> str:
        return f"<Board: {sum(map(len, self._kept.values()))} checks of {len(self._kept)} instances>"

    async def run(self) -> None:
        """Carry the checks out, until cancelled."""
        await self.prober.run()

    # --- what is checked ------------------------------------------------------------------------------------

    def want(self, subjects: Iterable[Subject]) -> None:
        """All instances of this host, as they are now. A check whose terms have changed goes on from where it
        stands; one that looks elsewhere begins anew.
        """
        wanted = {each.target.instance: each for each in subjects}
        for gone in self._kept.keys() - wanted.keys():
            for kept in self._kept.pop(gone).values():
                self.prober.drop(kept.job)
            self._subjects.pop(gone, None)
            self._healths.pop(gone, None)
        for instance, subject in wanted.items():
            before = self._subjects.get(instance)
            self._subjects[instance] = subject
            if before is None or before.configured != subject.configured or before.ours != subject.ours:
                self._settle(instance, subject)

    def _settle(self, instance: str, subject: Subject) -> None:
        now_s = time.monotonic()
        old = self._kept.get(instance, {})
        new: dict[str, _Kept] = {}
        for check in subject.all():
            kept = old.get(check.name)
            if kept is not None and kept.check == check:
                new[check.name] = kept
                continue
            job = Job(f"{instance}/{check.name}", check, lambda: self._subjects[instance].target)
            begun = _Kept(job, Standing.initial(check, now_s), self._wall_ns(), called_mono_s=now_s)
            if kept is not None and _same_look(kept.check, check):
                begun.standing, begun.since_wall_ns = kept.standing.under(check), kept.since_wall_ns
                begun.told, begun.called_mono_s = kept.told, kept.called_mono_s
            new[check.name] = begun
        held = [kept for kept in old.values() if kept.standing.out]
        for name, kept in old.items():
            if new.get(name) is not kept:
                self.prober.drop(kept.job)
        self._kept[instance] = new
        if held and not self.withdrawn(instance):
            self._tell(instance, "registration.restored", held[0])
            self._changed()
        for name, kept in new.items():
            if old.get(name) is not kept:
                self.prober.add(kept.job)
        self._judge_at_once(instance)
        self._look_at_health(instance)

    # --- results --------------------------------------------------------------------------------------------

    def call(self, instance: str, name: str, state: str, output: str) -> None:
        """Something calls in for a TTL. Raises InvalidInput: there is no such check, or no such state."""
        kept = self._kept.get(instance, {}).get(name)
        if kept is None or not isinstance(kept.check, checks.TtlCheck):
            there = [k.check.name for k in self._kept.get(instance, {}).values() if _is_ttl(k)]
            said = ", ".join(there) or "none"
            raise InvalidInput(f'instance {instance} has no check of kind ttl named "{name}" (it has {said})')
        if state not in health.ORDER:
            raise InvalidInput(f"state: found {state!r}, wanted one of {', '.join(health.ORDER)}")
        kept.called_mono_s = time.monotonic()
        self._taken(kept.job, Result(state, cut(output.encode())), 0.0)

    def _within(self, job: Job) -> Result | None:
        kept = self._of(job)
        if kept is None:
            return None
        match job.check:
            case checks.AliasCheck() as check:
                return Result(*self._service(check.of))
            case checks.TtlCheck() as check:
                silent_s = time.monotonic() - kept.called_mono_s
                if silent_s <= check.ttl_s:
                    self._look_at(job, kept, kept.standing)
                    return None
                return Result("critical", f"no call for {silent_s:.0f} s, wanted within {check.ttl_s:g} s")
        known = self._known(self._instance(job))
        if known is None:
            return None
        found = known[isinstance(job.check, checks.HeartbeatCheck)]
        return Result(found.state, found.output)

    def _judge_at_once(self, instance: str) -> None:
        for kept in self._kept.get(instance, {}).values():
            if kept.at_once and (result := self._within(kept.job)) is not None:
                self._taken(kept.job, result, 0.0)

    def _taken(self, job: Job, result: Result, took_s: float) -> None:
        kept = self._of(job)
        if kept is None:
            return  # it is wanted no more
        kept.took_s = took_s
        standing = kept.standing.take(result.state, result.output, kept.check, time.monotonic())
        self._look_at(job, kept, standing)

    def _look_at(self, job: Job, kept: _Kept, standing: Standing) -> None:
        instance = self._instance(job)
        if not self._subjects[instance].led:
            standing = standing.look(kept.check, time.monotonic())
        before, kept.standing = kept.standing, standing
        if standing.since_s != before.since_s:
            kept.since_wall_ns = self._wall_ns()
        if before.state != standing.state != kept.told and not self._unnamed(kept):
            self._tell(instance, f"check.{standing.state}", kept)
            kept.told = standing.state
        if standing.out != before.out:
            self._tell(instance, "registration.withdrawn" if standing.out else "registration.restored", kept)
            self._changed()
        self._look_at_health(instance)

    def _look_at_health(self, instance: str) -> None:
        state = health.worst(kept.standing.state for kept in self._kept[instance].values())
        if self._healths.get(instance) != state:
            self._healths[instance] = state
            self._changed()

    def _tell(self, instance: str, kind: str, kept: _Kept) -> None:
        output = " ".join(kept.standing.output.split())[:EVENT_CHARS_MAX]
        self._report(
            kind, instance=instance, check=kept.check.name, of=checks.kind_of(kept.check), output=output
        )

    # --- what is said ---------------------------------------------------------------------------------------

    def judged(self, instance: str, process: Finding, heartbeat: Finding) -> tuple[State, str]:
        """The health of an instance and the reason when it is not passing, from all of its checks; the two
        findings are as of now.
        """
        own = self._kept.get(instance)
        if own is None:
            return health.fold((process, heartbeat))
        found = []
        for kept in own.values():
            if kept.at_once:
                seen = heartbeat if isinstance(kept.check, checks.HeartbeatCheck) else process
                found.append(Finding("", seen.state, seen.output))
            else:
                found.append(Finding(kept.check.name, kept.standing.state, kept.standing.output))
        return health.fold(found)

    def health_of(self, instance: str) -> State:
        """The worst of its checks now; passing where it has none."""
        own = self._kept.get(instance, {}).values()
        found = [kept.standing.state for kept in own if not kept.at_once]
        if len(found) < len(own):
            found += [each.state for each in self._known(instance) or ()]
        return health.worst(found)

    def withdrawn(self, instance: str) -> bool:
        """Its registration is out, as a check of it has been critical for too long."""
        return any(kept.standing.out for kept in self._kept.get(instance, {}).values())

    def rows(self, instance: str | None = None) -> list[Row]:
        """Of one instance, or of all of this host, in order of instance and then as services.yml has them."""
        chosen = sorted(self._kept) if instance is None else [instance]
        for each in chosen:
            self._judge_at_once(each)
        now_s, wall_ns = time.monotonic(), self._wall_ns()
        return [
            self._row(self._subjects[each], kept, now_s, wall_ns)
            for each in chosen
            for kept in self._kept.get(each, {}).values()
        ]

    def _row(self, subject: Subject, kept: _Kept, now_s: float, wall_ns: int) -> Row:
        target, check, standing = subject.target, kept.check, kept.standing
        age_ns = int((now_s - standing.since_s) * 1e9)
        due_s: float | None = kept.job.due_mono_s
        if isinstance(check, checks.TtlCheck):
            due_s = kept.called_mono_s + check.ttl_s
        elif not (target.runs or isinstance(check, WITHIN)):
            due_s = None
        return Row(
            service=target.service,
            instance=target.instance,
            check=check.name,
            kind=checks.kind_of(check),
            state=standing.state,
            since=look.iso(clock.restamped(kept.since_wall_ns, age_ns, wall_ns)),
            output=standing.output[: OUTPUT_BYTES_MAX + 64],
            next_at=None if due_s is None else look.iso(wall_ns + int(max(0, due_s - now_s) * 1e9)),
        )

    def gauges(self, instance: str) -> Mapping[str, float]:
        """For the metrics page: `check_state` (0 passing, 1 warning, 2 critical), and how long the last look
        took.
        """
        found: dict[str, float] = {}
        for kept in self._kept.get(instance, {}).values():
            who = f'check="{kept.check.name}",kind="{checks.kind_of(kept.check)}"'
            found[f"check_state{{{who}}}"] = float(health.ORDER.index(kept.standing.state))
            found[f"check_took_seconds{{{who}}}"] = kept.took_s
        return found

    def terms(self, instance: str) -> Sequence[checks.Check]:
        """The checks of an instance, in their order."""
        return [kept.check for kept in self._kept.get(instance, {}).values()]

    # --- small parts ----------------------------------------------------------------------------------------

    def _of(self, job: Job) -> _Kept | None:
        instance, _, name = job.key.rpartition("/")
        kept = self._kept.get(instance, {}).get(name)
        return kept if kept is not None and kept.job is job else None

    @staticmethod
    def _instance(job: Job) -> str:
        return job.key.rpartition("/")[0]

    @staticmethod
    def _unnamed(kept: _Kept) -> bool:
        """`process` and `heartbeat` as everybody has them: instance events and reasons tell of these."""
        return kept.check in (PROCESS, HEARTBEAT)


def _is_ttl(kept: _Kept) -> bool:
    return isinstance(kept.check, checks.TtlCheck)


def _same_look(old: checks.Check, new: checks.Check) -> bool:
    """They differ in their terms alone: how often, how long, how many."""
    if type(old) is not type(new):
        return False
    terms = {each.name: getattr(new, each.name) for each in msgspec.structs.fields(checks.Check)}
    return msgspec.structs.replace(old, **terms) == new
