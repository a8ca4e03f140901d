"""A service's document as data: paths into it, the difference of two, and three sides merged.

A document is plain JSON: mappings with texts as keys, lists, and single values. A path is dotted, an item of
a list goes by its index: `breaker.failures`, `markets.0`. Nothing here changes what it was given. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane.errors import InvalidInput, TooLarge
from controlplane.host.log_line import printable
from controlplane.model.config import LEVELS_MAX

DOCUMENT_BYTES_MAX = 64 * 1024
"""Encoded. A transaction takes 512 KiB with all its values, and every agent of the site holds it."""
PATH_PARTS_MAX = 20
SHOWN_MAX = 60
"""Characters of a value in a message."""


def shown(value: object) -> str:
    """A value in a message: recognisable, and short."""
    if value is None or value is ABSENT:
        return "nothing"
    text = f'"{value}"' if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    text = printable(text)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."


class _Absent:
    """Not there, which is another thing than null."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


# --- size ---------------------------------------------------------------------------------------------------


def encoded(value: Any, of: str, bytes_max: int = DOCUMENT_BYTES_MAX) -> bytes:
    """The JSON of a document, or of a value. `of`: whose it is, for messages.

    Raises:
        TooLarge: more than `bytes_max`. InvalidInput: what every store and daemon would not read as the same.
    """
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        each, depth = waiting.pop()
        if wanted := _wanted_instead(each, depth):
            found = "more" if depth > LEVELS_MAX else shown(each)
            raise InvalidInput(f"{of}: found {found}, wanted {wanted}")
        below = each.values() if isinstance(each, Mapping) else each
        if isinstance(each, Mapping | list | tuple):
            waiting += [(inner, depth + 1) for inner in below]
    try:
        made = msgspec.json.encode(value)
    except ValueError as exc:
        raise InvalidInput(f"{of}: found {exc}, wanted texts of Unicode") from exc
    if len(made) > bytes_max:
        raise TooLarge(f"{of}: found {len(made)} bytes, wanted at most {bytes_max}")
    return made


def _wanted_instead(value: Any, depth: int) -> str:
    if depth > LEVELS_MAX:
        return f"at most {LEVELS_MAX} levels inside each other"
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        return "texts as keys"
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return "a whole number of at most 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number"
    return "" if isinstance(value, (Mapping, *PLAIN)) else "plain JSON"


PLAIN: tuple[type, ...] = (str, bool, int, float, list, tuple, type(None))


# --- paths --------------------------------------------------------------------------------------------------


def parts(path: str) -> tuple[str, ...]:
    """Raises InvalidInput: the path is none."""
    found = tuple(path.split("."))
    if not all(found) or any(not part.isprintable() for part in found):
        raise InvalidInput(f"path {path[:SHOWN_MAX]!r}: wanted names with dots between them")
    if len(found) > PATH_PARTS_MAX:
        raise InvalidInput(f"path {path[:SHOWN_MAX]!r}: {len(found)} names, wanted at most {PATH_PARTS_MAX}")
    return found


def overlap(one: str, other: str) -> bool:
    """Whether the two are the same, or one lies within the other."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def get(document: Mapping[str, Any], path: str) -> Any:
    """Raises InvalidInput: nothing is at that path; it says how far the path goes, and what is there."""
    here: Any = document
    walked: list[str] = []
    for part in parts(path):
        here = _child(here, part, walked, path)
        walked.append(part)
    return here


def put(document: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A document with this value at the path. A mapping on the way that is not there is made, and an index
    that is the list's length appends. Raises InvalidInput: what is on the way has nothing within it.
    """
    changed: dict[str, Any] = _put(document, parts(path), value, [], path)
    return changed


def unset(document: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A document without what is at the path: a setting is then its daemon's default.

    Raises:
        InvalidInput: nothing is there, or it is an item of a list, which has no default.
    """
    *above, last = parts(path)
    parent = get(document, ".".join(above)) if above else document
    _child(parent, last, above, path)
    if isinstance(parent, list):
        raise InvalidInput(f"{path}: found an item of a list, wanted a setting: set the whole list")
    left = {name: value for name, value in parent.items() if name != last}
    return put(document, ".".join(above), left) if above else left


def edited(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """With each path set to its value; null unsets. Raises InvalidInput, also when one lies in another."""
    paths = list(changes)
    for index, path in enumerate(paths):
        for other in paths[:index]:
            if overlap(path, other):
                raise InvalidInput(
                    f"{path}: found it beside {other}, wanted paths of which none holds another"
                )
    changed = dict(document)
    for path, value in changes.items():
        changed = unset(changed, path) if value is None else put(changed, path, value)
    return changed


def _child(here: Any, part: str, walked: list[str], path: str) -> Any:
    at = ".".join(walked) or "the top"
    if isinstance(here, Mapping):
        if part not in here:
            names = ", ".join(sorted(map(str, here))) or "nothing"
            raise InvalidInput(f"{path}: found no {part} at {at}, wanted one of {names}")
        return here[part]
    if isinstance(here, list):
        return here[_index(part, len(here), at, path)]
    raise InvalidInput(f"{path}: found {shown(here)} at {at}, wanted a path that ends there")


def _index(part: str, length: int, at: str, path: str) -> int:
    if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part) < length):
        wanted = f"an index from 0 to {length - 1}" if length else "no index: it is empty"
        raise InvalidInput(f"{path}: found {shown(part)} in the list at {at}, wanted {wanted}")
    return int(part)


def _put(here: Any, left: tuple[str, ...], value: Any, walked: list[str], path: str) -> Any:
    if not left:
        return value
    part, *rest = left
    at = ".".join(walked) or "the top"
    below = [*walked, part]
    if here is None or here is ABSENT:
        here = {}
    if isinstance(here, Mapping):
        return {**here, part: _put(here.get(part, ABSENT), tuple(rest), value, below, path)}
    if isinstance(here, list):
        index = _index(part, len(here) + 1, at, path)
        items = [*here, ABSENT] if index == len(here) else list(here)
        items[index] = _put(items[index], tuple(rest), value, below, path)
        return items
    raise InvalidInput(f"{path}: found {shown(here)} at {at}, wanted a mapping or a list there")


# --- differences --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """Of one value; None on either side also when nothing is there."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {shown(self.old)} -> {shown(self.new)}"


def same(one: Any, other: Any) -> bool:
    """Equal as JSON has it: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What changes, value by value, in the order of the old document and then the new one's. Lists of one
    length go item by item, others as a whole. A value that is null is the same as none.
    """
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterable[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and (path == "" or (old and new)):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{path}.{index}")
    elif not same(old, new):
        yield Change(path, old, new)


def touched_by_both(mine: Iterable[Change], theirs: Iterable[Change]) -> tuple[str, ...]:
    """Paths of mine that are, hold or lie in one of theirs."""
    others = [each.path for each in theirs]
    return tuple(each.path for each in mine if any(overlap(each.path, other) for other in others))


# --- three sides --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sides:
    """A setting that two hands changed to different values; None also where nothing is there."""

    path: str
    base: Any
    ours: Any
    theirs: Any


@dataclass(frozen=True, slots=True)
class Merged:
    document: dict[str, Any]
    """Where the two conflict, it has ours: merged the other way round, theirs."""
    conflicts: tuple[Sides, ...] = field(default=())


def merge(base: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Merged:
    """Ours with what changed from base to theirs. A mapping is merged setting by setting, a list is one
    setting. A setting that only one side changed is that side's; one that both changed differently is a
    conflict.
    """
    conflicts: list[Sides] = []
    merged = _merge(base, ours, theirs, "", conflicts)
    return Merged(merged if isinstance(merged, dict) else {}, tuple(conflicts))


def _merge(base: Any, ours: Any, theirs: Any, path: str, conflicts: list[Sides]) -> Any:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and isinstance(base, Mapping):
        found = {}
        for key in dict.fromkeys([*ours, *theirs]):
            was, mine, other = (each.get(key, ABSENT) for each in (base, ours, theirs))
            below = _merge(was, mine, other, f"{path}.{key}" if path else str(key), conflicts)
            if below is not ABSENT:
                found[key] = below
        return found
    if same(ours, theirs) or same(base, theirs):
        return ours
    if same(base, ours):
        return theirs
    conflicts.append(Sides(path, *(None if side is ABSENT else side for side in (base, ours, theirs))))
    return ours
