"""A status that hftctl has read by name is what the agent built, and what is no status is named."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest

from controlplane.cli import by_name
from controlplane.errors import InvalidInput
from controlplane.site import document
from tests.unit.controlplane import test_status as built

STRUCTS = [
    each for each in vars(document).values() if isinstance(each, type) and issubclass(each, msgspec.Struct)
]


def same(struct: Any, read: Any) -> bool:
    """Every field of every struct in it, read by name."""
    if isinstance(struct, msgspec.Struct):
        return all(same(getattr(struct, name), getattr(read, name)) for name in struct.__struct_fields__)
    if isinstance(struct, list | tuple):
        return len(struct) == len(read) and all(map(same, struct, read))
    return bool(struct == read)


def test_every_field_of_a_status_is_read_by_its_name() -> None:
    found = msgspec.convert(built.build(built.floor()), document.StatusDocument)
    assert found.services and found.hosts
    assert same(found, by_name.read(document.encode(found)))


def test_no_field_has_the_name_of_something_that_every_dict_has() -> None:
    names = {name for struct in STRUCTS for name in struct.__struct_fields__}
    assert len(names) > 30 and not names & set(dir(dict))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not decode"),
        (b'{"site": "lab"', "does not decode"),
        (b"\xff", "does not decode"),
        (b"[]", "found list, wanted a JSON object"),
        (b"null", "found NoneType, wanted a JSON object"),
    ],
)
def test_what_is_no_answer_is_refused_in_one_line(body: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        by_name.read(body)


def test_a_field_that_is_missing_is_named_and_the_answer_stays_a_dict() -> None:
    found = by_name.read(b'{"site": "lab", "store": {"kind": "etcd"}}')
    assert (found.site, found.store.kind) == ("lab", "etcd") and copy.deepcopy(found) == found
    with pytest.raises(InvalidInput, match='has no "latency_ms"'):
        _ = found.store.latency_ms
