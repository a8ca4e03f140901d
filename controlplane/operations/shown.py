"""What people are told of operations: the records of the store, and among them the hand-overs that no
operator asked for, which the history of their group tells. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from controlplane.model import records
from controlplane.operations.log import RUNNING
from controlplane.site import look
from controlplane.site.view import SiteView

HAND_OVER = "hand-over"
"""Kind of a change of leader that the system made by itself."""


def of(view: SiteView) -> list[dict[str, Any]]:
    """All that there are, oldest first, with their steps; times are ISO 8601 in UTC."""
    rows = {row.operation: row for each in view.history.values() for row in each if row.operation}
    found = [told(each, steps_of(rows.get(each.id))) for each in view.operations]
    found += [told(each) for each in _hand_overs(view)]
    return sorted(found, key=lambda each: (each["created_at"], each["id"]))


def told(record: records.OperationRecord, steps: Sequence[records.OperationStep] = ()) -> dict[str, Any]:
    """One, for people and scripts. `steps`: where the record has none of its own."""
    return {
        "id": record.id,
        "kind": record.kind,
        "subject": record.subject,
        "state": record.state,
        "actor": record.actor,
        "reason": record.reason,
        "created_at": look.iso(record.created_ns),
        "finished_at": None if record.finished_ns is None else look.iso(record.finished_ns),
        "took_ms": _took_ms(record.created_ns, record.finished_ns),
        "outcome": record.outcome,
        "steps": [
            {
                "name": step.name,
                "state": step.state,
                "started_at": look.iso(step.started_ns),
                "finished_at": None if step.finished_ns is None else look.iso(step.finished_ns),
                "took_ms": _took_ms(step.started_ns, step.finished_ns),
                "detail": step.detail,
            }
            for step in record.steps or steps
        ],
    }


def steps_of(row: records.HistoryRow | None) -> tuple[records.OperationStep, ...]:
    """Of a change of leader, as far as it is."""
    if row is None:
        return ()
    to = row.to_instance or "no instance"
    taken = records.OperationStep(
        f"{to} takes the lead",
        RUNNING if row.taken_ns is None else "succeeded",
        row.started_ns,
        row.taken_ns,
    )
    if row.taken_ns is None or row.to_instance is None:
        return (taken,)
    state = RUNNING if row.active_ns is None else "succeeded"
    return (taken, records.OperationStep(f"{to} becomes active", state, row.taken_ns, row.active_ns))


def _hand_overs(view: SiteView) -> Iterator[records.OperationRecord]:
    for service, rows in view.history.items():
        for row, after in zip(rows, [*rows[1:], None], strict=True):
            if row.operation is not None:
                continue
            state, finished_ns, outcome = RUNNING, row.active_ns, ""
            if row.active_ns is not None:
                state = "succeeded"
            elif after is not None:  # it is known to be over: another one leads
                state, finished_ns = "failed", after.started_ns
                outcome = f"epoch {after.epoch} followed before it was active ({after.cause})"
            yield records.OperationRecord(
                f"{HAND_OVER}-{service}-{row.epoch}",
                HAND_OVER,
                service,
                state,
                row.actor,
                row.reason or row.cause,
                row.started_ns,
                finished_ns,
                outcome,
                steps_of(row),
            )


def _took_ms(started_ns: int, finished_ns: int | None) -> float | None:
    return None if finished_ns is None else round(max(0, finished_ns - started_ns) / 1e6, 1)
