"""`hftctl config get|set|edit|apply|diff|history|rollback|watch`: a service's settings, with the market open,
and plain keys.

A target is a service, whose document has revisions, or `/KEY`, a plain key. How a change is shown, sent and
followed: config_change.py; in an editor: config_edit.py; as it comes: config_watch.py.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

from controlplane.cli import agent_client, breaker, config_ask, config_change, config_text, render
from controlplane.cli.declare import Argument, Noun, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import InvalidInput


class KeyType(str, Enum):  # noqa: UP042  (as Output)
    bool = "bool"
    int = "int"
    float = "float"
    string = "string"
    json = "json"


ServiceArgument = Annotated[str, Argument(help="Name of a service.", complete="config_words:services")]
TargetArgument = Annotated[
    str, Argument(help="A service, or /KEY for a plain key.", complete="config_words:targets")
]
AnyTargetArgument = Annotated[
    Optional[str],
    Argument(help="A service, or /KEY for a plain key; all if left out.", complete="config_words:targets"),
]
ReasonOption = Annotated[Optional[str], Option("--reason", help="Why; kept in the history. Required.")]
DryRunOption = Annotated[bool, Option("--dry-run", help="Show what would change, and send nothing.")]
YesOption = Annotated[bool, Option("--yes", "-y", help="Send it without asking.")]
WaitOption = Annotated[
    bool,
    Option(
        "--wait/--no-wait", help="Return when it is in force or its rollout has ended, or once it is sent."
    ),
]
WithinOption = Annotated[
    Optional[str],
    Option(
        "--timeout",
        help="How long until it has to be in force, or each stage of a rollout: 30s, 2m; 60s if left out.",
    ),
]
RolloutOption = Annotated[
    bool,
    Option("--rollout", help="To a canary or to standbys first, then to the rest; reverted if it turns bad."),
]
CanaryOption = Annotated[
    Optional[list[str]],
    Option(
        "--canary",
        help="Instance that has it first; may be given several times; standbys if left out.",
        complete="config_words:instances",
    ),
]
WatchOption = Annotated[
    Optional[str], Option("--watch", help="How long each stage has to stay good: 30s, 2m; 10s if left out.")
]
RevertOption = Annotated[
    Optional[str],
    Option("--revert-when", help="Revert when this holds of an instance: 'NAME > VALUE', a rate per second."),
]


def get(
    target: AnyTargetArgument = None,
    path: Annotated[
        Optional[str],
        Argument(help="Path into the document, as breaker.failures.", complete="config_words:paths"),
    ] = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """What is wanted and what is in force: of the site, of a service, or the value at a path or of a key."""
    floor = agent_client.Floor(site_dir, timeout)
    if target is None:
        return _all(floor, output)
    if (key := config_text.key_of(target)) is not None:
        if path is not None:
            raise InvalidInput(f"{target}: a plain key has no paths")
        row = config_ask.key(floor, key)
        return _value(row["value"], output) if output is Output.table else _show(row, output)
    found = config_ask.service(floor, target)
    if path is not None:
        return _value(config_text.at(found["document"] or {}, path, target), output)
    if output is not Output.table:
        return _show(found, output)
    render.say(config_text.head(found))
    if found["document"] is None:
        render.say(
            f"  revision {found['revision']} cannot be read in the store; the last good one stays in force"
        )
        return 1
    render.show(config_text.document_rows(found), output, ("path", "value", "changes"))
    return 0


def set_(
    target: TargetArgument,
    changes: Annotated[
        Optional[list[str]],
        Argument(
            help="PATH=VALUE of a service, several at once; the VALUE of a plain key.",
            metavar="[PATH=VALUE]...",
            complete="config_words:assignments",
        ),
    ] = None,
    unset: Annotated[
        Optional[list[str]],
        Option(
            "--unset",
            help="Path that goes back to the daemon's default; may be given several times.",
            complete="config_words:paths",
        ),
    ] = None,
    delete: Annotated[bool, Option("--delete", help="Delete the plain key.")] = False,
    type: Annotated[
        Optional[KeyType], Option("--type", help="Of the plain key's value; guessed from it if left out.")
    ] = None,
    ttl: Annotated[
        Optional[str], Option("--ttl", help="The store deletes the plain key after this time: 30s, 5m.")
    ] = None,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = True,
    within: WithinOption = None,
    rollout: RolloutOption = False,
    canary: CanaryOption = None,
    watch: WatchOption = None,
    revert_when: RevertOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Change values of a service's document, or a plain key."""
    how = config_change.how(
        target, reason, dry_run, yes, wait, within, output,
        rollout=rollout, canary=canary, watch=watch, revert_when=revert_when,
    )  # fmt: skip
    words = list(changes or ())
    key = config_text.key_of(target)
    if key is None:
        if delete or type is not None or ttl is not None:
            raise InvalidInput(f"{target}: --delete, --type and --ttl are of a plain key (/KEY)")
        typed = config_text.assignments(words, unset or ())
        floor = agent_client.Floor(site_dir, ASK_TIMEOUT_S)
        document = config_ask.service(floor, target)["document"] or {}
        asked = {"kind": "set", "set": config_text.values(typed, document)}
        try:
            return config_change.carry_out(floor, target, asked, how)
        except InvalidInput as exc:
            raise InvalidInput("\n".join([str(exc), *config_text.strangers(typed, document)])) from exc
    if unset or how.rollout:
        raise InvalidInput(f"{target}: --unset and --rollout are of a service's document")
    wanted: dict[str, Any] = {"delete": True}
    if delete:
        if words or type is not None or ttl is not None:
            raise InvalidInput(f"{target}: --delete takes no value, --type or --ttl")
    else:
        if len(words) != 1:
            raise InvalidInput(
                f"{target}: found {len(words)} values, wanted one (quote what has blanks), or --delete"
            )
        kind = type.value if type is not None else ""
        value = config_text.of_type(words[0], kind) if kind else config_text.value(words[0])
        wanted = {"value": value, "type": kind, "ttl_s": breaker.seconds(ttl, "--ttl")}
    return config_change.carry_out_key(agent_client.Floor(site_dir, ASK_TIMEOUT_S), key, wanted, how)


def edit(
    service: ServiceArgument,
    reason: Annotated[
        Optional[str], Option("--reason", help="Why; kept in the history. May be written in the file.")
    ] = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = True,
    within: WithinOption = None,
    rollout: RolloutOption = False,
    canary: CanaryOption = None,
    watch: WatchOption = None,
    revert_when: RevertOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Change a service's document in $VISUAL or $EDITOR; the change is shown before it is sent."""
    how = config_change.how(
        service, reason or "in the file", dry_run, yes, wait, within, output,
        rollout=rollout, canary=canary, watch=watch, revert_when=revert_when,
    )  # fmt: skip
    floor = agent_client.Floor(site_dir, ASK_TIMEOUT_S)
    from controlplane.cli import config_edit  # here: no other verb runs an editor

    return config_edit.edit(floor, service, (reason or "").strip(), how)


def apply(
    service: ServiceArgument,
    file: Annotated[Path, Option("--file", "-f", help="The whole document, YAML or JSON; - reads stdin.")],
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = True,
    within: WithinOption = None,
    rollout: RolloutOption = False,
    canary: CanaryOption = None,
    watch: WatchOption = None,
    revert_when: RevertOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Make a service's document what a file says; the change is shown first."""
    how = config_change.how(
        service, reason, dry_run, yes, wait, within, output,
        rollout=rollout, canary=canary, watch=watch, revert_when=revert_when,
    )  # fmt: skip
    floor = agent_client.Floor(site_dir, ASK_TIMEOUT_S)
    from controlplane.cli import config_file

    if str(file) == "-" and how.asks():
        raise InvalidInput("apply -f -: at a terminal, wanted --yes too (stdin is the document)")
    document = config_file.read(file)
    base = config_ask.service(floor, service)["revision"]
    asked = {"kind": "apply", "document": document.value, "base": base}
    try:
        return config_change.carry_out(floor, service, asked, how, shown_first=True)
    except InvalidInput as exc:
        raise InvalidInput(document.located(str(exc))) from exc


def rollback(
    service: ServiceArgument,
    to: Annotated[
        Optional[int], Option("--to", min=1, help="Revision to go back to; the one before if left out.")
    ] = None,
    reason: ReasonOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    wait: WaitOption = True,
    within: WithinOption = None,
    rollout: RolloutOption = False,
    canary: CanaryOption = None,
    watch: WatchOption = None,
    revert_when: RevertOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Make an earlier revision's document the wanted one again, as a new revision; takes back a rollout that
    is under way.
    """
    how = config_change.how(
        service, reason, dry_run, yes, wait, within, output,
        rollout=rollout, canary=canary, watch=watch, revert_when=revert_when,
    )  # fmt: skip
    floor = agent_client.Floor(site_dir, ASK_TIMEOUT_S)
    found = config_ask.service(floor, service)
    base = found["revision"]
    if to is None and found["rollout"]:
        to = found["rollout"]["base"]
    if to is None:
        rows = config_ask.history(floor, service)
        to = next((row["base"] for row in rows if row["revision"] == base), None)
        if to is None:
            raise InvalidInput(f"{service}: no revision before {base} is kept")
    asked = {"kind": "rollback", "to": to, "base": base}
    return config_change.carry_out(floor, service, asked, how, shown_first=True)


def diff(
    service: ServiceArgument,
    old: Annotated[
        Optional[int], Argument(help="Revision; the one before the wanted one if left out.")
    ] = None,
    new: Annotated[Optional[int], Argument(help="Revision; the wanted one if left out.")] = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """What one revision has otherwise than another; exit 1 when they differ."""
    found = config_ask.diff(agent_client.Floor(site_dir, timeout), service, old, new)
    if output is not Output.table:
        return _show(found, output) or int(bool(found["changes"]))
    none = "" if found["changes"] else ": no difference"
    render.say(f"{service}: revision {found['from']} -> {found['to']}{none}")
    if found["changes"]:
        render.say(config_text.changes(found["changes"], ()))
    return int(bool(found["changes"]))


def history(
    service: ServiceArgument,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """The revisions of a service's document: when, by whom, why, and what each changed."""
    rows = config_ask.history(agent_client.Floor(site_dir, timeout), service)
    if output is not Output.table:
        return _show(rows, output)
    render.show([config_text.history_row(row) for row in rows], output, config_text.HISTORY)
    return 0


def watch(
    target: AnyTargetArgument = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """A line for each change as it comes; Ctrl-C ends it."""
    key = config_text.key_of(target) if target is not None else None
    floor = agent_client.Floor(site_dir, timeout)
    from controlplane.cli import config_watch  # here: the others do not stay

    return config_watch.watch(floor, None if key is not None else target, key, output)


def _all(floor: agent_client.Floor, output: Output) -> int:
    site, keys = floor.get("/v1/site/config"), floor.get("/v1/site/keys")["keys"]
    if output is not Output.table:
        return _show({**site, "keys": keys}, output)
    render.show([config_text.service_row(row) for row in site["services"]], output, config_text.SERVICES)
    if keys:
        render.say("")
        render.show([config_text.key_row(row) for row in keys], output, config_text.KEYS)
    return 0


def _value(found: Any, output: Output) -> int:
    """A text by itself is printed without quotes, for scripts."""
    if output is not Output.table:
        return _show(found, output)
    render.say(found if isinstance(found, str) else render.json_text(found))
    return 0


def _show(found: Any, output: Output) -> int:
    render.show(found, output)
    sys.stdout.flush()
    return 0


config = Noun(
    "Configuration: services' settings and plain keys, their revisions, changed with the market open.",
    {
        "get": get,
        "set": set_,
        "edit": edit,
        "apply": apply,
        "diff": diff,
        "history": history,
        "rollback": rollback,
        "watch": watch,
    },
)
