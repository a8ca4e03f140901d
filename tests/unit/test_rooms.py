"""Each room's `__init__` declares what other rooms may use; nothing reaches past it.

A room is a folder of the product. What it declares is its `__all__`: names that it re-exports, and modules
that others may import names from. import-linter says who may import whom; this says what of a room is its
front door.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("controlplane", "agents", "hftd")
DECLARED_MAX = 17
"""About a dozen; a room that would declare more is two rooms."""

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for top in TOPS
    for path in sorted((ROOT / top).rglob("*.py"))
    if "etcd/rpc" not in str(path)
}
ROOMS = sorted(module for module, path in FILES.items() if path.name == "__init__.py" and module not in TOPS)


def room_of(module: str) -> str:
    """The innermost room that holds the module; the top itself for what stands beside the rooms."""
    return next(
        (room for room in reversed(ROOMS) if f"{module}.".startswith(f"{room}.")), module.split(".")[0]
    )


def declared(room: str) -> list[str]:
    for node in ast.parse(FILES[room].read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(each, "id", "") for each in node.targets] == ["__all__"]:
            found: list[str] = ast.literal_eval(node.value)
            return found
    return []


def imports(module: str) -> list[tuple[int, str, str, str]]:
    """(line, module imported from, name, name here) of each import of ours."""
    return [
        (node.lineno, node.module, alias.name, alias.asname or alias.name)
        for node in ast.walk(ast.parse(FILES[module].read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in TOPS
        for alias in node.names
    ]


def attributes(module: str, name: str) -> list[tuple[int, str]]:
    """(line, attribute) of each `name.attribute`."""
    return [
        (node.lineno, node.attr)
        for node in ast.walk(ast.parse(FILES[module].read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_what_others_may_use(room: str) -> None:
    said = ast.get_docstring(ast.parse(FILES[room].read_text()))
    assert said, f"{room}/__init__.py: says nothing of what the room is for"
    names = declared(room)
    assert len(names) <= DECLARED_MAX, f"{room} declares {len(names)} names"
    assert len(set(names)) == len(names)


def test_nothing_reaches_past_the_front_door_of_a_room() -> None:
    past = []
    for module in FILES:
        own = room_of(module)
        for line, source, name, here in imports(module):
            target = f"{source}.{name}" if f"{source}.{name}" in FILES else source
            room = room_of(target)
            if room in TOPS or f"{own}.".startswith(f"{room}."):
                continue
            if target == room and source != room:  # the room itself: what is used of it counts
                used = [(at, each) for at, each in attributes(module, here) if each not in declared(room)]
                past += [f"{FILES[module].relative_to(ROOT)}:{at}: {room}.{each}" for at, each in used]
                continue
            front = name if source == room else source.removeprefix(f"{room}.").split(".")[0]
            if front not in declared(room):
                past.append(f"{FILES[module].relative_to(ROOT)}:{line}: {source}.{name}")
    assert not past, "used past a room's front door:\n" + "\n".join(past)
