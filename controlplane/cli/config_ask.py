"""What `hftctl config` asks of an agent, and for what it waits: a change that is carried out once, its
revision in force on every instance, a rollout at its end.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from controlplane.cli import agent_client, op, render
from controlplane.cli.output import Output
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput, Refused
from controlplane.http import unix

CHANGE_S = 15.0
"""For an agent to check, write and record a change; the store's own bounds are below it."""
DOCUMENT_BYTES_MAX = 64 << 10
"""As operations/config_change.py has it, which a verb does not import."""
LOOK_EVERY_S, LOOK_AGAIN_S = 0.01, 0.1
"""A change takes milliseconds; one that has not come within SETTLED_S comes when it comes."""
DOWN = ("stopped", "backoff")
SETTLED_S = 3.0
"""A refusal may be of the revision before, and an instance may be down as it is restarted; what stands this
long is not waited for."""
HEARD_S = 10.0
"""For an operation that an agent has begun to be seen by any agent."""
ROLLOUT_END_S = 30.0
"""Beyond the times of its stages, for a rollout's last word."""


def service(floor: agent_client.Floor, name: str, revision: int | None = None) -> dict[str, Any]:
    """Raises InvalidInput: no such service or revision. FloorUnreachable."""
    query = "" if revision is None else f"?revision={revision}"
    found: dict[str, Any] = floor.get(f"/v1/site/config/{quote(name, safe='')}{query}")
    return found


def key(floor: agent_client.Floor, name: str) -> dict[str, Any]:
    """Raises InvalidInput: no such key. FloorUnreachable."""
    found: dict[str, Any] = floor.get(f"/v1/site/keys/{quote(name, safe='')}")
    return found


def history(floor: agent_client.Floor, name: str) -> list[dict[str, Any]]:
    """Oldest first. Raises as `service` does."""
    found: list[dict[str, Any]] = floor.get(f"/v1/site/config/{quote(name, safe='')}/history")
    return found


def diff(floor: agent_client.Floor, name: str, old: int | None, new: int | None) -> dict[str, Any]:
    """Raises as `service` does."""
    query = "&".join(f"{end}={each}" for end, each in (("from", old), ("to", new)) if each is not None)
    found: dict[str, Any] = floor.get(f"/v1/site/config/{quote(name, safe='')}/diff?{query}")
    return found


def change(floor: agent_client.Floor, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The result of one change of a service's document; as `post`."""
    if asked.get("document") is not None:
        size = len(render.json_text(asked["document"]).encode())
        if size > DOCUMENT_BYTES_MAX:
            raise InvalidInput(
                f"{name}: found a document of {size:,} bytes as JSON, wanted at most {DOCUMENT_BYTES_MAX:,}"
            )
    return post(floor, f"/v1/site/config/{quote(name, safe='')}", name, asked)


def change_key(floor: agent_client.Floor, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The result of one change of a plain key; as `post`."""
    return post(floor, f"/v1/site/keys/{quote(name, safe='')}", f"/{name}", asked)


def post(floor: agent_client.Floor, target: str, subject: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Sent to one agent, once. An answer that does not come is the outcome `unknown`.

    Raises:
        InvalidInput: a bad value, named by its path. Refused: a conflict, or a rollout that is under way.
        FloorUnreachable: nothing was changed.
    """
    host = floor.living_host()
    body = json.dumps(asked, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        answer = unix.request(floor.socket(host), "POST", target, body, timeout_s=CHANGE_S)
    except FloorUnreachable as exc:
        why = f"the agent of {host} did not answer: {exc}"
        return {"service": subject, "operation": None, "outcome": "unknown", "reason": why}
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if isinstance(found, dict) and "outcome" in found:
        return {"service": subject, **found}
    said = agent_client.reason_of(answer)
    if answer.status in (400, 404, 413):
        raise InvalidInput(found.get("error", said) if isinstance(found, dict) else said)  # a line a fault
    if answer.status == 409:
        raise Refused(said)
    if answer.status == 503:
        raise FloorUnreachable(f"{subject}: nothing was changed: {said}")
    raise HftctlError(f"{subject}: {said}")


# --- waiting ------------------------------------------------------------------------------------------------


def in_force(
    floor: agent_client.Floor, name: str, revision: int, timeout_s: float, began_mono_s: float
) -> dict[str, Any]:
    """Wait until every running instance has the revision, or a later one, in force: {"in_force", "took_ms",
    "not_yet" (instance -> why not), "not_running"}.
    """
    seen_mono_s = time.monotonic()
    while True:
        rows: list[dict[str, Any]] = []
        try:
            found = service(floor, name)
            rows, late = found["instances"], _late(found, revision)
        except FloorUnreachable as exc:  # agents restart
            late = {name: str(exc)}
        now_mono_s = time.monotonic()
        down = [row["id"] for row in rows if row["id"] in late and row["state"] in DOWN]
        stuck = {*down, *(row["id"] for row in rows if row["refused"] or row["state"] == "unknown")}
        settled = stuck.issuperset(late) and now_mono_s - seen_mono_s > SETTLED_S
        if not late or settled or now_mono_s - began_mono_s >= timeout_s:
            return {
                "in_force": {row["id"]: row["in_force"] for row in rows},
                "took_ms": round((now_mono_s - began_mono_s) * 1000, 1),
                "not_yet": {each: why for each, why in late.items() if each not in down},
                "not_running": down,
            }
        time.sleep(LOOK_EVERY_S if now_mono_s - seen_mono_s < SETTLED_S else LOOK_AGAIN_S)


def key_heard(floor: agent_client.Floor, done: Mapping[str, Any], timeout_s: float) -> bool:
    """Wait until an agent has a plain key as it was written."""
    began_mono_s = time.monotonic()
    while True:
        with contextlib.suppress(FloorUnreachable):  # agents restart
            rows = {row["key"]: row for row in floor.get("/v1/site/keys")["keys"]}
            row = rows.get(done["key"])
            if row is None if done["value"] is None else row is not None and row["value"] == done["value"]:
                return True
        if time.monotonic() - began_mono_s >= timeout_s:
            return False
        time.sleep(LOOK_EVERY_S)


def _late(found: Mapping[str, Any], revision: int) -> dict[str, str]:
    """Instance -> why it does not have the revision, or a later one, in force."""
    if found["revision"] < revision:
        return {found["service"]: f"the agents have not heard of revision {revision}"}
    late = {}
    for row in found["instances"]:
        later = row["in_force"] > revision and row["in_force"] == row["wanted"]
        if (row["in_force"] == revision or later) and row["state"] not in DOWN:
            continue
        had = f"revision {row['in_force']} is in force" if row["in_force"] else "it has not said"
        if row["state"] == "unknown":
            late[row["id"]] = "no agent reports it"
        elif row["state"] != "running":
            late[row["id"]] = f"it is {row['state']}"
        else:
            late[row["id"]] = f"{had}; it refused: {row['refused']}" if row["refused"] else had
    return late


def rollout_end(
    floor: agent_client.Floor, operation: str, timeout_s: float, output: Output
) -> dict[str, Any] | None:
    """Follow a rollout, its steps said as they come in a table: its operation at its end; None: it has none
    within the time.
    """
    said: dict[str, Any] = {}
    began_mono_s = time.monotonic()
    while True:
        row = _operation(floor, operation)
        now_mono_s = time.monotonic()
        if row is not None:
            if output is Output.table:
                op.say_steps(row, said, output)
            if row["state"] != "running":
                return row
        if now_mono_s - began_mono_s >= (timeout_s if row is not None else max(timeout_s, HEARD_S)):
            return None
        time.sleep(op.WATCH_EVERY_S / 2)


def _operation(floor: agent_client.Floor, operation: str) -> dict[str, Any] | None:
    try:
        found: list[dict[str, Any]] = floor.get("/v1/site/operations")
    except FloorUnreachable:
        return None  # agents restart
    return next((row for row in found if row["id"] == operation), None)


def until_over(floor: agent_client.Floor, look: Callable[[], None], every_s: float) -> int:
    """Look again and again until the floor has ended, over restarts of its agents; returns the exit code for
    how it did. Raises FloorUnreachable: at the first look.
    """
    first = True
    while True:
        try:
            look()
            first = False
        except FloorUnreachable:
            from controlplane.cli import kept, stderr

            if first:
                raise
            if end := kept.ended(floor):
                stderr.say(end[0])
                return end[1]
        time.sleep(every_s)
