"""How `hftctl config` carries a change out: shown first and asked about at a terminal, sent once, and
followed until it is in force or its rollout has ended.

What was shown is what is written: it is sent with the revision that it was made on, and a document that
another has changed since is a conflict, which is shown with both sides. Exit codes: 0 done, 1 refused or
reverted, 2 bad input, 3 nothing was changed as no agent or store answers, 4 timed out or outcome unknown.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from controlplane.cli import agent_client, breaker, config_ask, config_text, op, render, stderr
from controlplane.cli.output import Output
from controlplane.errors import InvalidInput, Refused

WATCH_S, TIMEOUT_S = 10.0, 60.0
_METRIC = re.compile(r"(\S.*?)\s*([<>])\s*(-?[0-9]+(?:\.[0-9]+)?)")


class How(NamedTuple):
    """What the options of a change say."""

    reason: str
    dry_run: bool
    yes: bool
    wait: bool
    timeout_s: float
    rollout: dict[str, Any] | None
    output: Output

    def say(self, text: str) -> None:
        """What is no part of the answer, in JSON or YAML, goes to stderr."""
        (render.say if self.output is Output.table else stderr.say)(text)

    def asks(self) -> bool:
        return not self.yes and sys.stdin.isatty()

    def agreed(self, question: str = "send it?") -> bool:
        """At a terminal, an answer; elsewhere nobody can give one, and what was typed is meant."""
        if not self.asks():
            return True
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return True
        stderr.say("nothing was changed")
        return False


def how(
    subject: str,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    wait: bool,
    timeout: str | None,
    output: Output,
    *,
    rollout: bool = False,
    canary: Sequence[str] | None = None,
    watch: str | None = None,
    revert_when: str | None = None,
) -> How:
    """Raises InvalidInput: options that do not fit together, a duration that is none, or no reason."""
    if not dry_run and not (reason and reason.strip()):
        raise InvalidInput(f"config of {subject}: --reason is missing (it is kept in the history)")
    timeout_s = breaker.seconds(timeout, "--timeout") or TIMEOUT_S
    wish = None
    if rollout:
        wish = {
            "canary": list(canary or ()),
            "watch_s": breaker.seconds(watch, "--watch") or WATCH_S,
            "timeout_s": timeout_s,
            "metric": metric(revert_when or ""),
        }
    elif canary or watch or revert_when:
        raise InvalidInput("--canary, --watch and --revert-when are of a rollout: wanted --rollout too")
    return How((reason or "").strip(), dry_run, yes, wait, timeout_s, wish, output)


def metric(text: str) -> str:
    """`NAME > VALUE` or `NAME < VALUE`, as the rollout reads it. Raises InvalidInput."""
    if not text:
        return ""
    found = _METRIC.fullmatch(text.strip())
    if found is None:
        said = config_text.shown(text)
        raise InvalidInput(f"--revert-when {said}: wanted 'NAME > VALUE' or 'NAME < VALUE'")
    return " ".join(found.groups())


def carry_out(
    floor: agent_client.Floor,
    service: str,
    asked: dict[str, Any],
    how: How,
    *,
    shown_first: bool = False,
    conflict: Callable[[], None] = lambda: None,
) -> int:
    """One change of a document, to its exit code. `shown_first`: also where nobody is asked. `conflict` is
    called once it is known to be one.

    Raises as config_ask.post does.
    """
    asked = {**asked, "reason": how.reason or "to be shown", "rollout": how.rollout}
    try:
        if how.dry_run or shown_first or how.asks():
            planned = config_ask.change(floor, service, {**asked, "dry_run": True})
            if planned["outcome"] != "dry_run":
                return _ended(planned, how)
            if how.dry_run and how.output is not Output.table:
                render.show(planned, how.output)
                return 0
            if not planned["changes"]:
                return _nothing(planned, how)
            how.say(f"{service}: on revision {planned['from']}")
            how.say(config_text.changes(planned["changes"], planned["restarts"]))
            if how.dry_run or not how.agreed():
                return 0 if how.dry_run else 1
            asked["base"] = planned["from"]
        began_mono_s = time.monotonic()
        done = config_ask.change(floor, service, asked)
    except Refused as exc:
        if asked.get("base") is None or not _conflicts(floor, service, asked["base"], str(exc)):
            raise
        conflict()
        return 1
    if done["outcome"] not in ("succeeded", "running"):
        return _ended(done, how)
    if not done["changes"]:
        return _nothing(done, how)
    if not (shown_first or how.asks()):
        how.say(config_text.changes(done["changes"], done["restarts"]))
    if how.rollout is not None:
        return _rolled_out(floor, done, how)
    return _in_force(floor, done, how, began_mono_s)


def _nothing(done: dict[str, Any], how: How) -> int:
    if how.output is Output.table:
        render.say(f"{done['service']}: nothing to do, revision {done['from']} is so already")
    else:
        render.show(done, how.output)
    return 0


def _ended(done: dict[str, Any], how: How) -> int:
    """Of a change that was not made, or that is not known to be."""
    if how.output is Output.table:
        operation = f" (operation {done['operation']})" if done.get("operation") else ""
        render.say(f"{done['service']}: {done['outcome']}: {done['reason']}{operation}")
    else:
        render.show(done, how.output)
    return agent_client.EXIT_CODES.get(done["outcome"], 1)


def _conflicts(floor: agent_client.Floor, service: str, base: int, said: str) -> bool:
    """Whether the document is another than the one that was changed; then their side is shown."""
    now = config_ask.service(floor, service)
    if now["revision"] == base:
        return False
    stderr.say(f"{service}: conflict: {said}")
    theirs = config_ask.diff(floor, service, base, now["revision"])
    stderr.say(f"theirs, revision {base} -> {now['revision']}{config_text.by(now)}:")
    stderr.say(config_text.changes(theirs["changes"], ()))
    return True


# --- until it is in force -----------------------------------------------------------------------------------


def _in_force(floor: agent_client.Floor, done: dict[str, Any], how: How, began_mono_s: float) -> int:
    service, revision = done["service"], done["to"]
    made = f"{service}: revision {done['from']} -> {revision} (operation {done['operation']})"
    if not how.wait:
        if how.output is Output.table:
            render.say(made)
        else:
            render.show(done, how.output)
        return 0
    found = config_ask.in_force(floor, service, revision, how.timeout_s, began_mono_s)
    if how.output is not Output.table:
        render.show({**done, **found}, how.output)
        return 4 if found["not_yet"] else 0
    having = [each for each in found["in_force"] if each not in (*found["not_yet"], *found["not_running"])]
    render.say(f"{made}, in force on {', '.join(having) or 'no instance'} after {found['took_ms']} ms")
    for each in found["not_running"]:
        render.say(f"  {each}: does not run; it has the new revision when it starts")
    for each, why in found["not_yet"].items():
        render.say(f"  {each}: not in force: {why} (hftctl config get {service}; hftctl status)")
    return 4 if found["not_yet"] else 0


def _rolled_out(floor: agent_client.Floor, done: dict[str, Any], how: How) -> int:
    assert how.rollout is not None
    operation = done["operation"]
    if how.output is Output.table:
        render.say(f"{done['service']}: rollout of revision {done['to']}: operation {operation}")
    if not how.wait:
        if how.output is not Output.table:
            render.show(done, how.output)
        return 0
    each_s = how.rollout["timeout_s"] + how.rollout["watch_s"]
    row = config_ask.rollout_end(floor, operation, 3 * each_s + config_ask.ROLLOUT_END_S, how.output)
    if row is None:
        stderr.say(f"{operation}: not heard to have ended (hftctl op watch {operation})")
        return 4
    if how.output is Output.table:
        render.say(f"{done['service']}: {op.ending(row)}")
    else:
        render.show({**done, "outcome": row["state"], "reason": row["outcome"] or row["reason"]}, how.output)
    return op.code_of(row)


# --- plain keys ---------------------------------------------------------------------------------------------


def carry_out_key(floor: agent_client.Floor, key: str, asked: dict[str, Any], how: How) -> int:
    """One change of a plain key, to its exit code: with `wait`, once an agent has heard of it. Raises as
    config_ask.post does.
    """
    if how.dry_run or how.asks():
        keys = {row["key"]: row["value"] for row in floor.get("/v1/site/keys")["keys"]}
        planned = {"key": key, "old": keys.get(key), "value": asked.get("value")}
        if how.dry_run and how.output is not Output.table:
            render.show(
                {"operation": None, **planned, "outcome": "dry_run", "reason": how.reason}, how.output
            )
            return 0
        how.say(_of_key(planned))
        if how.dry_run or not how.agreed():
            return 0 if how.dry_run else 1
    done = config_ask.change_key(floor, key, {**asked, "reason": how.reason})
    late = (
        done["outcome"] == "succeeded" and how.wait and not config_ask.key_heard(floor, done, how.timeout_s)
    )
    if how.output is not Output.table:
        render.show(done, how.output)
    elif done["outcome"] != "succeeded":
        return _ended(done, how)
    else:
        during = f" for {done['ttl_s']:g} s" if done.get("ttl_s") else ""
        render.say(f"{_of_key(done)}{during} (operation {done['operation']})")
    if late:
        stderr.say(f"/{key}: written, and not heard by an agent within {how.timeout_s:g} s (hftctl status)")
        return 4
    return agent_client.EXIT_CODES.get(done["outcome"], 1)


def _of_key(done: dict[str, Any]) -> str:
    return f"/{done['key']}: {config_text.shown(done['old'])} -> {config_text.shown(done['value'])}"
