"""What the keeper of one member of a group should do next: `decide(view, now)` -> actions and one sentence
that says why.

Pure: a view (group_view.py) goes in, a decision comes out; time is an argument (CLOCK_BOOTTIME ns). The rules
(R4, R5 ...) are those of docs/protocol.md. What it promises: at most one transaction is asked for at a time;
a closed epoch is never renewed again (R7); nobody campaigns for a lease whose record did not stand still for
a whole lease in this keeper's own view (R4). The store's compares make sure of it once more
(transactions.py). The doing is in agents/keeper/member.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from controlplane.leadership.budget import Budget, believed_lease_ns
from controlplane.leadership.group_view import Cause, Group, GroupView, Lead
from controlplane.model import Process, records

KILL_WAIT_NS = 500_000_000
"""A killed process that has not died by then (stuck in the kernel) is handed over all the same: its word is
zero and FENCE comes first."""

REQUEST_PATIENCE_NS = 1_000_000_000
"""How long a failover waits for one of its electable standbys to answer before it is refused: ten
pings."""

HOME_WAIT_NS = 500_000_000
"""R14: how long the home leaves a vacant lead to an electable standby. A keeper that has just started has
asked no peer yet, and would take none for passing: five pings."""


@dataclass(frozen=True, slots=True)
class Close:
    """Latch, then word: wanted = hand over, valid until 0 (R7). `kill`: then end the process."""

    lead: Lead
    kill: bool = False


@dataclass(frozen=True, slots=True)
class StandDown:
    """Zero the word; the lead is another's."""


@dataclass(frozen=True, slots=True)
class Disarm:
    """Zero a word that an earlier keeper armed: its epoch is over, and its daemon does not know it."""

    lead: Lead


@dataclass(frozen=True, slots=True)
class Renew:
    """Renew the record; the good answer moves the word's deadline."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The record names this process and its keeper does not lead for it yet: a good renewal of one's own
    first (R6).
    """


@dataclass(frozen=True, slots=True)
class Campaign:
    cause: Cause


@dataclass(frozen=True, slots=True)
class HandOver:
    """`to` None names no successor: holder none, home kept (R8)."""

    to: Process | None
    cause: Cause


@dataclass(frozen=True, slots=True)
class WriteElectable:
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    state: str
    outcome: str


@dataclass(frozen=True, slots=True)
class RecordActive:
    """Complete the history row of the epoch that is led."""


Action = (
    Close | StandDown | Disarm | Renew | Claim | Campaign | HandOver | WriteElectable | Settle | RecordActive
)


@dataclass(frozen=True, slots=True)
class Decision:
    actions: tuple[Action, ...]
    sentence: str
    """Changes only when there is something to say; empty: what was said last still holds."""


IN_FLIGHT = Decision((), "")
"""A transaction is under way, or has just failed: its end is waited for."""


def decide(view: GroupView, now_ns: int) -> Decision:
    if view.group is None:
        return _wait("has not seen the store yet")
    if view.lead is None:
        return _stand_by(view, view.group, now_ns)
    if _taken_away(view.group, view.lead):
        return _do(
            StandDown(),
            f"stands down: the record is at epoch {view.group.epoch_number}, led by "
            f"{_name(view.group.holder)}",
        )
    if view.lead.closed is None:
        return _lead(view, view.group, view.lead, now_ns)
    return _hand_over(view, view.group, view.lead, view.lead.closed, now_ns)


def _lead(view: GroupView, group: Group, lead: Lead, now_ns: int) -> Decision:
    if not view.runs or lead.process != view.me:
        return _do(
            Close(_ended(view, lead, now_ns)), f"closes epoch {lead.epoch}: pid {lead.process.pid} is dead"
        )
    if view.stopping:
        return _do(
            Close(replace(lead, closed=Cause.RELEASED, closed_ns=now_ns)),
            f"closes epoch {lead.epoch}: the keeper stops",
        )
    if went_back(view, group):
        return _wait(_back(view, group))
    if group.pending:
        refusal = _refusal(view, group, group.pending, now_ns)
        if refusal is None:
            closed = replace(lead, closed=Cause.FAILOVER, closed_ns=now_ns, killed=True)
            return _do(
                Close(closed, kill=True),
                f"closes epoch {lead.epoch}: failover {group.pending.operation}, {group.pending.reason}",
            )
        if refusal and view.free:
            return _do(Settle("refused", refusal), f"refuses failover {group.pending.operation}: {refusal}")
    if not view.free:
        return IN_FLIGHT
    if not view.fresh:
        return _wait(f"does not renew: the heartbeat of pid {lead.process.pid} is stale")
    if view.electable is not None:
        return _do(
            WriteElectable(view.electable), f"leads epoch {lead.epoch}; electable is {_names(view.electable)}"
        )
    if now_ns >= view.renew_ns:
        return _do(Renew(), _leads(lead, group))
    if view.active and group.row and group.row.epoch == lead.epoch and group.row.active_ns is None:
        return _do(RecordActive(), _leads(lead, group))
    return _wait(_leads(lead, group))


def _refusal(view: GroupView, group: Group, request: records.RequestRecord, now_ns: int) -> str | None:
    """Why the request cannot be carried out; empty while that is still open; None when it can."""
    if request.kind != "failover":
        return f"this keeper does not know requests of kind {request.kind!r}"
    if request.epoch != group.epoch_number:
        return f"it was made for epoch {request.epoch}, the group is at epoch {group.epoch_number}"
    if request.to == view.me.instance:
        return f"{request.to} leads already"
    wanted = [process for process in _others(view, group) if request.to in (None, process.instance)]
    if not wanted:
        return f"{request.to} is not electable" if request.to else "no standby is electable"
    if not view.successors.intersection(wanted):
        answer = (
            f"no keeper of {', '.join(process.instance for process in wanted)} answers that it is passing"
        )
        return answer if now_ns - view.request_ns >= REQUEST_PATIENCE_NS else ""
    return None


def _hand_over(view: GroupView, group: Group, lead: Lead, cause: Cause, now_ns: int) -> Decision:
    """The epoch is closed: who is next?"""
    same = lead.process == view.me
    if lead.killed and same and view.runs and now_ns < lead.closed_ns + KILL_WAIT_NS:
        return _wait(f"waits for the death of pid {lead.process.pid}")
    if went_back(view, group):
        return _wait(_back(view, group))
    request = group.pending
    if group.paused and request is None:
        return _wait(f"paused: epoch {lead.epoch} stays closed")
    if not view.free:
        return IN_FLIGHT
    if cause is Cause.RELEASED:
        return _do(HandOver(None, cause), f"releases epoch {lead.epoch}")
    others = _others(view, group)
    passing = [process for process in others if process in view.successors]
    if request:  # what was asked for if it can be had, else anyone: the old leader is dead already
        passing = [process for process in passing if request.to in (None, process.instance)] or passing
    if passing:
        return _do(
            HandOver(passing[0], cause), f"hands epoch {lead.epoch} over to {passing[0].instance} ({cause})"
        )
    # R14: no electable standby can take it, so the same disk may lead again; R7: by a take that names itself,
    # with epoch + 1.
    if not others and view.home_ok and _fit(view) and not (same and lead.killed):
        return _do(
            HandOver(view.me, cause), f"hands epoch {lead.epoch} over to its own pid {view.me.pid} ({cause})"
        )
    return _do(
        HandOver(None, cause),
        f"hands epoch {lead.epoch} over to no instance ({cause}): no electable standby is passing",
    )


def _stand_by(view: GroupView, group: Group, now_ns: int) -> Decision:
    if went_back(view, group):
        return _wait(_back(view, group))
    record = group.leader
    if record and record.holder and record.holder.instance == view.me.instance:
        return _named(view, record, record.holder, now_ns)
    if view.word_armed is not None and view.word_armed <= group.rank:
        lead = Lead(view.me, *view.word_armed)
        return _do(Disarm(lead), f"ends epoch {lead.epoch} here: {_name(group.holder)} leads")
    if view.leaving:
        return _wait("stops")
    if group.incarnation is None:
        return _wait("stands by: the store has no incarnation")
    cause = _may_campaign(view, group, now_ns)
    if cause is None:
        return _wait(f"stands by; {_name(group.holder)} leads epoch {group.epoch_number}")
    if group.paused:
        return _wait("paused: does not campaign")
    if not view.free:
        return IN_FLIGHT
    if not _fit(view):
        return _wait("would campaign, but its process is not ready")
    return _do(Campaign(cause), f"campaigns for epoch {group.epoch_number + 1} ({cause})")


def _named(view: GroupView, record: records.LeaderRecord, holder: Process, now_ns: int) -> Decision:
    """The record names this instance, and this keeper does not lead for it (yet)."""
    lead = Lead(holder, record.incarnation, record.epoch)
    if holder == view.me and view.runs and view.word_closed != lead.rank:
        if view.stopping:
            return _do(
                Close(replace(lead, closed=Cause.RELEASED, closed_ns=now_ns)),
                f"closes epoch {record.epoch}: the keeper stops",
            )
        if not view.free:
            return IN_FLIGHT
        if not view.fresh:
            return _wait("is named leader; its heartbeat is stale")
        return _do(Claim(), f"is named leader of epoch {record.epoch}")
    if holder != view.me and view.holder_runs:
        return _wait(f"is named leader with pid {holder.pid}, which still runs")
    return _do(
        Close(_ended(view, lead, now_ns)),
        f"closes epoch {record.epoch}: pid {holder.pid} does not lead any more",
    )


def _ended(view: GroupView, lead: Lead, now_ns: int) -> Lead:
    """Its process is dead: lost, unless it was asked to end."""
    cause = Cause.RELEASED if view.leaving else Cause.STOPPED if view.ending else Cause.PROCESS_LOST
    return replace(lead, closed=cause, closed_ns=now_ns)


def _may_campaign(view: GroupView, group: Group, now_ns: int) -> Cause | None:
    waited = now_ns >= view.changed_ns + lease_ns(view.budget, group.leader)  # R4
    if group.leader is None:
        # No instance ever led: open to any ready member. With an epoch one did lead, and the record was
        # deleted: wait as for a lost host.
        return Cause.FIRST if group.epoch is None else Cause.LEASE_EXPIRED if waited else None
    electable = view.me in group.candidates
    # R14: a home that is no instance of the service any more never comes back; without one, a lease's silence
    # opens the lead to any ready member.
    homeless = bool(view.slots) and group.leader.home not in view.slots and waited
    if group.holder is None:
        # R5: holder none: at once.
        return (
            Cause.RELEASED if electable or homeless or _home_may(view, group, group.leader, now_ns) else None
        )
    return Cause.LEASE_EXPIRED if (electable or homeless) and waited else None


def lease_ns(own: Budget, record: records.LeaderRecord | None) -> int:
    """What a follower waits after the last change of the record: its leader may keep time by another
    profile, so the longer one (R1).
    """
    return max(own.lease_ns, believed_lease_ns(record.lease_ms) if record else 0)


def _home_may(view: GroupView, group: Group, record: records.LeaderRecord, now_ns: int) -> bool:
    """R14: the last holder's instance goes after the electable standbys: those that pass have a lease, those
    not heard of five pings.
    """
    if record.home != view.me.instance or not view.home_ok:
        return False
    others = _others(view, group)
    wait_ns = (
        0
        if not others
        else HOME_WAIT_NS
        if view.successors.isdisjoint(others)
        else lease_ns(view.budget, record)
    )
    return now_ns >= view.changed_ns + wait_ns


def settled(request: records.RequestRecord, leader: str | None, to: Process | None) -> records.RequestRecord:
    """The request as the take that names `to` (None: nobody) settles it (R15). `leader`: the instance that
    led before.
    """
    if to is None:
        return replace(
            request,
            state="failed",
            outcome="the old leader was stopped, but no electable standby could take the lead",
        )
    if request.to not in (None, to.instance):
        return replace(request, state="failed", outcome=f"{to.instance} took the lead, not {request.to}")
    if to.instance == leader:
        return replace(request, state="failed", outcome=f"{to.instance} leads again")
    return replace(request, state="succeeded")


def went_back(view: GroupView, group: Group) -> bool:
    """The store is behind this keeper's own disk (R19): it was restored or emptied, and gets no promotion and
    no renewal.
    """
    return group.rank < view.seen


def _taken_away(group: Group, lead: Lead) -> bool:
    record = group.leader
    return record is None or record.holder != lead.process or (record.incarnation, record.epoch) != lead.rank


def _others(view: GroupView, group: Group) -> list[Process]:
    return [process for process in group.candidates if process.instance != view.me.instance]


def _fit(view: GroupView) -> bool:
    return view.runs and view.fresh and view.ready and not view.leaving


def _back(view: GroupView, group: Group) -> str:
    return (
        f"the store went back: it is at incarnation, epoch {group.rank}, this keeper has seen "
        f"{view.seen}; no lead until the incarnation is raised"
    )


def _name(process: Process | None) -> str:
    return process.instance if process else "nobody"


def _names(processes: tuple[Process, ...]) -> str:
    return ", ".join(process.instance for process in processes) or "nobody"


def _leads(lead: Lead, group: Group) -> str:
    """The same words for as long as the same process leads with the same standbys behind it: a renewal is no
    news.
    """
    said = group.electable is not None and group.electable.writer_epoch == lead.epoch
    return f"leads epoch {lead.epoch}" + (f"; electable is {_names(group.candidates)}" if said else "")


def _do(action: Action, sentence: str) -> Decision:
    return Decision((action,), sentence)


def _wait(sentence: str) -> Decision:
    return Decision((), sentence)
