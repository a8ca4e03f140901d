"""Configuration in words: what was typed (`PATH=VALUE`, a target, a value), and documents, changes, revisions
and keys as lines and tables. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from controlplane.cli import render
from controlplane.errors import InvalidInput

SHOWN_MAX = 100
"""Characters of a value in a line; JSON and YAML have all of it."""
NEAREST = 3
KEY_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
KEY_CHARS_MAX = 128
SERVICES = ("service", "revision", "in_force", "rollout", "changed_at", "actor", "reason")
KEYS = ("key", "value", "type", "ttl_s", "changed_at", "actor", "reason")
HISTORY = ("revision", "at", "actor", "kind", "reason", "changes")

# --- what was typed -----------------------------------------------------------------------------------------


def key_of(target: str) -> str | None:
    """The plain key of a target `/KEY`; None: the target is a service. Raises InvalidInput: no such key can
    be.
    """
    if not target.startswith("/"):
        return None
    key = target[1:]
    if not key or len(key) > KEY_CHARS_MAX or key[0] in ".-" or not KEY_CHARS.issuperset(key):
        raise InvalidInput(
            f"key {shown(key)}: wanted a letter, digit or _ and then at most {KEY_CHARS_MAX - 1} letters, "
            "digits, _, - and dots (no slash, no blank, no newline)"
        )
    return key


def assignments(words: Sequence[str], unset: Sequence[str]) -> dict[str, str | None]:
    """Path -> what was typed; None: back to the daemon's default. Raises InvalidInput."""
    found: dict[str, str | None] = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise InvalidInput(f"{shown(word)}: wanted PATH=VALUE, such as breaker.failures=3")
        if not text:
            raise InvalidInput(f"{path}=: no value; wanted PATH=VALUE, PATH='\"\"' or --unset {path}")
        _put(found, path, text)
    for path in unset:
        _put(found, path, None)
    if not found:
        raise InvalidInput("nothing to set: wanted PATH=VALUE or --unset PATH")
    return found


def _put(found: dict[str, str | None], path: str, wanted: str | None) -> None:
    if path in found:
        raise InvalidInput(f"{path}: given twice")
    found[path] = wanted


def values(typed: Mapping[str, str | None], document: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> value. Where a text stands, as decimals do, what was typed is one: `max_position=500`."""
    return {
        path: text if text is None else _like(value(text), text, standing(document, path))
        for path, text in typed.items()
    }


def _like(found: Any, text: str, stands: Any) -> Any:
    return text if isinstance(stands, str) and found is not None and not isinstance(found, str) else found


def value(text: str) -> Any:
    """JSON, else a scalar as services.yml has it, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass
    if not text or (text.isidentifier() and text.lower() not in YAML_WORDS):
        return text  # most of them; yaml costs a tenth of what a verb has
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    return found if isinstance(found, bool | int | float | None) and ":" not in text else text


YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def of_type(text: str, type: str) -> Any:
    """A plain key's value as its type has it. Raises InvalidInput."""
    try:
        match type:
            case "string":
                return text
            case "bool":
                found = value(text)
                if isinstance(found, bool):
                    return found
            case "int":
                return int(text, 10)
            case "float":
                number = float(text)
                if abs(number) < float("inf"):
                    return number
            case _:
                return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass
    raise InvalidInput(f"value: found {shown(text)}, wanted one of type {type}")


# --- documents ----------------------------------------------------------------------------------------------


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that `set` can name, mappings gone into; a list is one value."""
    if isinstance(document, dict) and (document or not path):
        for name, below in document.items():
            yield from leaves(below, f"{path}.{name}" if path else str(name))
    else:
        yield path, document


class _Nothing:
    """Not there, which is another thing than null."""


NOTHING = _Nothing()


def standing(document: Mapping[str, Any], path: str) -> Any:
    """The value at a path, or NOTHING."""
    found: Any = document
    for name in path.split("."):
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and len(name) < 9 and int(name) < len(found):
            found = found[int(name)]
        else:
            return NOTHING
    return found


def at(document: Mapping[str, Any], path: str, service: str) -> Any:
    """Raises InvalidInput: there is nothing; names the nearest paths."""
    found = standing(document, path)
    if found is NOTHING:
        near = ", ".join(nearest(path, document))
        wanted = f"wanted one of its document (nearest: {near})"
        raise InvalidInput(f'service "{service}": found path {shown(path)}, {wanted}')
    return found


def strangers(paths: Iterable[str], document: Mapping[str, Any]) -> list[str]:
    """A line for each path that the document does not have, with those that are like it."""
    return [
        f"{path}: not in the document; nearest: {', '.join(nearest(path, document))}"
        for path in paths
        if standing(document, path) is NOTHING
    ]


def nearest(path: str, document: Mapping[str, Any]) -> list[str]:
    """The paths of the document that look most like it."""
    import difflib

    known = [each for each, _ in leaves(document)]
    near = difflib.get_close_matches(path, known, NEAREST, 0.5)
    if not near:
        last = path.rpartition(".")[2]
        near = [each for each in known if last and last in each][:NEAREST]
    return near or sorted(document)[: 3 * NEAREST]


# --- in words -----------------------------------------------------------------------------------------------


def shown(found: Any) -> str:
    """A value as it may be typed, on one line, cut at SHOWN_MAX characters."""
    text = render.json_text(found)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 4]} ..."


def change(row: Mapping[str, Any]) -> str:
    return f"{row['path']}: {shown(row['old'])} -> {shown(row['new'])}"


def changes(rows: Sequence[Mapping[str, Any]], restarts: Sequence[str]) -> str:
    """A line each; those that restart instances say so."""
    lines = [
        f"  {change(row)}{' (restarts its instances)' if _restarts(row['path'], restarts) else ''}"
        for row in rows
    ]
    return "\n".join(lines)


def _restarts(path: str, restarts: Sequence[str]) -> bool:
    return path.partition(".")[0] in restarts or path in restarts


def head(found: Mapping[str, Any]) -> str:
    """Above a service's document: what is wanted, by whom, and what is in force where."""
    lines = [f"{found['service']}: revision {found['revision']}{by(found)}"]
    if found.get("rollout"):
        lines.append(f"  {rollout(found['rollout'])}")
    lines += [f"  {instance(row)}" for row in found["instances"]]
    return "\n".join(lines)


def by(found: Mapping[str, Any]) -> str:
    if not found.get("at"):
        return " (as services.yml says)" if found.get("kind") == "services_file" else ""
    return f", {found['kind']} by {found['actor']} at {found['at']}: {found['reason']}"


def rollout(found: Mapping[str, Any]) -> str:
    on = ", ".join(found["instances"]) or "no instance yet"
    return f"rollout of revision {found['revision']} ({found['operation']}): {found['stage']}, on {on}"


def instance(row: Mapping[str, Any]) -> str:
    """What an instance has, and why it does not have what is wanted."""
    said = f"{row['id']}: revision {row['in_force'] or '?'} in force"
    if row["state"] != "running":
        return f"{row['id']}: {row['state']}"
    if row["in_force"] != row["wanted"]:
        said += f", wanted {row['wanted']}"
    return f"{said}; refused: {row['refused']}" if row["refused"] else said


def document_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    restart = set(found["restart"])
    return [
        {
            "path": path,
            "value": shown(each),
            "changes": "restarts" if path.partition(".")[0] in restart else "live",
        }
        for path, each in leaves(found["document"] or {})
    ]


def service_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """For a table: what is in force in one word where all have the same."""
    having = row["in_force"]
    same = set(having.values())
    in_force = ",".join(map(str, same)) if len(same) == 1 else having
    under_way = (row["rollout"] or {}).get("revision")
    return {**row, "in_force": in_force, "rollout": under_way, "changed_at": row["at"]}


def key_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "key": f"/{row['key']}", "value": shown(row["value"]), "changed_at": row["at"]}


def history_row(row: Mapping[str, Any]) -> dict[str, Any]:
    changed = [each["path"] for each in row["changes"] or ()]
    reason = f"{row['reason']} (as revision {row['restored']})" if row.get("restored") else row["reason"]
    return {**row, "changes": changed, "reason": reason}
