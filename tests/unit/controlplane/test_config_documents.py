"""Paths into a document, differences of two, three sides merged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.config import documents, revisions
from controlplane.config.documents import ABSENT, Change
from controlplane.errors import InvalidInput, TooLarge

NAMES = st.sampled_from(["a", "b", "c"])
LEAVES = st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0]), st.sampled_from(["", "x"]))
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3))
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=3)
DOCUMENT = {"max": "5", "breaker": {"failures": 5, "open_s": 1.0}, "markets": ["spot", "usdm"], "none": None}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("max", "5"),
        ("breaker.failures", 5),
        ("markets.1", "usdm"),
        ("none", None),
        ("breaker", {"failures": 5, "open_s": 1.0}),
    ],
)
def test_a_path_leads_to_a_value(path: str, found: Any) -> None:
    assert documents.get(DOCUMENT, path) == found


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("breaker.failure", "found no failure at breaker, wanted one of failures, open_s"),
        ("nothing", "found no nothing at the top, wanted one of breaker, markets, max, none"),
        ("max.x", 'max.x: found "5" at max, wanted a path that ends there'),
        ("markets.2", 'found "2" in the list at markets, wanted an index from 0 to 1'),
        ("markets.-1", "wanted an index from 0 to 1"),
        ("markets.²", "wanted an index from 0 to 1"),
        ("", "wanted names with dots between them"),
        (".max", "wanted names with dots between them"),
        ("breaker..failures", "wanted names with dots between them"),
        ("max\n", "wanted names with dots between them"),
        (".".join("a" * 21), "21 names, wanted at most 20"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused_with_what_is_there(path: str, said: str) -> None:
    for act in (documents.get, documents.unset):
        with pytest.raises(InvalidInput) as refused:
            act(DOCUMENT, path)
        assert said in str(refused.value)


def test_a_value_is_put_into_a_copy_and_what_is_missing_on_the_way_is_made() -> None:
    before = copy.deepcopy(DOCUMENT)
    assert documents.put(DOCUMENT, "markets.2", "cm")["markets"] == ["spot", "usdm", "cm"]
    assert documents.put(DOCUMENT, "markets.0", "cm")["markets"] == ["cm", "usdm"]
    assert documents.put(DOCUMENT, "none.deep.er", 1)["none"] == {"deep": {"er": 1}}
    assert documents.put(DOCUMENT, "new.x", 1)["new"] == {"x": 1}
    assert "failures" not in documents.unset(DOCUMENT, "breaker.failures")["breaker"]
    assert before == DOCUMENT
    with pytest.raises(InvalidInput, match=r'max.x: found "5" at max, wanted a mapping or a list there'):
        documents.put(DOCUMENT, "max.x", 1)
    with pytest.raises(InvalidInput, match="set the whole list"):
        documents.unset(DOCUMENT, "markets.0")


def test_several_paths_are_set_at_once_unless_one_lies_in_another() -> None:
    changed = documents.edited(DOCUMENT, {"max": "6", "breaker.open_s": None})
    assert changed == {**DOCUMENT, "max": "6", "breaker": {"failures": 5}}
    with pytest.raises(InvalidInput, match="wanted paths of which none holds another"):
        documents.edited(DOCUMENT, {"breaker": {}, "breaker.failures": 1})
    assert documents.edited({"ab": 1, "a": 1}, {"ab": 2, "a": 2}) == {"ab": 2, "a": 2}, "no path of the other"


@given(DOCUMENTS, st.lists(NAMES, min_size=1, max_size=3), VALUES)
def test_what_was_put_is_found_and_nothing_else_is_another(
    document: dict[str, Any], names: list[str], value: Any
) -> None:
    path = ".".join(names)
    try:
        changed = documents.put(document, path, value)
    except InvalidInput:
        return
    assert documents.same(documents.get(changed, path), value)
    assert all(
        documents.overlap(change.path, path) or change.path == names[0]
        for change in documents.difference(document, changed)
    )


@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_put_onto_the_old_document_makes_the_new_one(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    changes = documents.difference(old, new)
    assert (changes == []) == documents.same(old, new)
    made: dict[str, Any] = old
    for change in changes:
        made = (
            documents.unset(made, change.path)
            if change.new is None
            else documents.put(made, change.path, change.new)
        )
    assert documents.same(made, new)
    assert [Change(each.path, each.new, each.old) for each in documents.difference(new, old)] == changes or {
        each.path for each in documents.difference(new, old)
    } == {each.path for each in changes}


def test_true_is_not_1_and_1_is_1_0() -> None:
    assert documents.difference({"a": 1, "b": [1]}, {"a": True, "b": [1.0]}) == [Change("a", 1, True)]
    assert str(Change("a.b", None, "x" * 100)) == f'a.b: nothing -> "{"x" * 56}...'


@given(DOCUMENTS, DOCUMENTS, DOCUMENTS)
def test_a_merge_takes_each_side_and_names_every_conflict(
    base: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    assert documents.same(documents.merge(base, ours, base).document, ours)
    assert documents.same(documents.merge(base, base, theirs).document, theirs)
    assert documents.same(documents.merge(base, ours, ours).document, ours)
    merged = documents.merge(base, ours, theirs)
    turned = documents.merge(base, theirs, ours)
    assert {each.path for each in merged.conflicts} == {each.path for each in turned.conflicts}
    for each in merged.conflicts:
        assert not documents.same(each.ours, each.theirs)
        assert not documents.same(each.base, each.ours) or each.base is None
    if not merged.conflicts:
        assert documents.same(merged.document, turned.document)


def test_a_setting_changed_on_both_sides_is_a_conflict_with_all_three() -> None:
    base = {"max": "5", "breaker": {"failures": 5, "open_s": 1.0}, "markets": ["spot"]}
    ours = {"max": "6", "breaker": {"failures": 7, "open_s": 1.0}, "markets": ["spot", "cm"]}
    theirs = {"max": "7", "breaker": {"failures": 5, "open_s": 2.0}, "markets": ["spot", "usdm"]}
    merged = documents.merge(base, ours, theirs)
    assert merged.document == {
        "max": "6", "breaker": {"failures": 7, "open_s": 2.0}, "markets": ["spot", "cm"]
    }  # fmt: skip
    assert [(each.path, each.base, each.ours, each.theirs) for each in merged.conflicts] == [
        ("max", "5", "6", "7"),
        ("markets", ["spot"], ["spot", "cm"], ["spot", "usdm"]),
    ]
    assert documents.merge(base, theirs, ours).document == {
        "max": "7", "breaker": {"failures": 7, "open_s": 2.0}, "markets": ["spot", "usdm"]
    }  # fmt: skip


def test_a_setting_that_one_side_took_out_and_the_other_changed_is_a_conflict() -> None:
    merged = documents.merge({"a": 1, "b": 1}, {"a": 2, "b": 1}, {})
    assert merged.document == {"a": 2} and [each.path for each in merged.conflicts] == ["a"]
    assert documents.merge({"a": 1, "b": 1}, {}, {"a": 2, "b": 1}).document == {}


def test_a_document_is_bounded_and_is_json() -> None:
    with pytest.raises(TooLarge, match="riskd: found 100010 bytes, wanted at most 65536"):
        documents.encoded({"a": "b" * 100_002}, "riskd")
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for bad in (
        {"a": object()},
        {"a": 1 << 70},
        {"a": float("nan")},
        {"a": "\ud800"},
        {1: 2},
        {"a": b"x" * 9, "b": {1}},
        deep,
    ):
        with pytest.raises((InvalidInput, TooLarge)):
            documents.encoded(bad, "riskd")
    while deep:  # piece by piece: freeing it at once would go as deep
        deep = deep["a"]
    assert repr(ABSENT) == "ABSENT"


# --- what is kept of a history ------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(1, 300), st.integers(1, 70_000), min_size=1), st.data())
def test_the_oldest_revisions_go_and_never_one_that_is_needed(sizes: dict[int, int], data: Any) -> None:
    needed = set(data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=3)))
    gone = revisions.surplus(sizes, needed)
    assert not needed & set(gone) and len(gone) <= revisions.DELETED_MAX
    assert gone == [number for number in sorted(sizes) if number not in needed][: len(gone)]
    for _ in range(len(sizes)):
        sizes = {number: size for number, size in sizes.items() if number not in gone}
        gone = revisions.surplus(sizes, needed)
    fits = len(sizes) <= revisions.KEPT_MAX and sum(sizes.values()) <= revisions.KEPT_BYTES_MAX
    assert fits or set(sizes) == needed
