"""A change of a service's configuration, or of a plain key: what is refused, and what is written."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane import model
from controlplane.config import documents, plain, revisions
from controlplane.errors import InvalidInput, Refused, TooLarge, Unavailable
from controlplane.model import records
from controlplane.model.config import LEVELS_MAX, RolloutRecord, check_sendable
from controlplane.operations import config_change, log
from controlplane.specs import settings_check
from controlplane.store import Entry, Keys
from controlplane.store.memory import Memory, MemoryStore
from tests.support import configured
from tests.support.configured import asked

pytestmark = pytest.mark.anyio
KEYS = Keys("lab")


async def site(**settings: Any) -> tuple[MemoryStore, config_change.ConfigChange]:
    store = MemoryStore(Memory())
    await configured.put_spec(store, KEYS, **settings)
    return store, await configured.change(store, KEYS)


async def stands(store: MemoryStore) -> revisions.Standing:
    return await revisions.read(store, KEYS, "riskd")


async def operations(store: MemoryStore) -> list[records.OperationRecord]:
    entries = (await store.range(KEYS.operations)).entries.values()
    return [model.decode(records.OperationRecord, entry.value) for entry in entries]


# --- documents ----------------------------------------------------------------------------------------------


async def test_the_first_change_writes_what_the_services_file_said_as_revision_1() -> None:
    store, change = await site(max_position="50")
    done = await change.run(asked(set={"max_position": "60", "breaker.failures": 7}))
    assert (done["from"], done["to"], done["outcome"]) == (1, 2, "succeeded")
    assert done["changes"] == [
        {"path": "max_position", "old": "50", "new": "60"},
        {"path": "breaker.failures", "old": 5, "new": 7},
    ]
    assert done["restarts"] == []
    now = await stands(store)
    assert now.revision == 2 and sorted(now.config.revisions) == [1, 2]
    assert now.document_of(1) == configured.spec(max_position="50").settings
    first, second = now.config.revisions[1], now.config.revisions[2]
    assert (first.kind, second.kind, second.actor, second.reason) == ("services_file", "set", "ann", "a test")
    [operation] = await operations(store)
    assert (operation.id, operation.state, operation.subject) == (done["operation"], "succeeded", "riskd")
    assert second.operation == operation.id


async def test_a_dry_run_and_a_change_to_what_stands_write_nothing() -> None:
    store, change = await site()
    done = await change.run(asked(set={"max_position": "60"}, dry_run=True))
    assert (done["outcome"], done["operation"], len(done["changes"])) == ("dry_run", None, 1)
    done = await change.run(asked(set={"max_position": "1000"}))
    assert (done["outcome"], done["operation"], done["changes"]) == ("succeeded", None, [])
    assert len((await store.range(KEYS.root)).entries) == 1, "the spec alone"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_positon": "1"}, "riskd: max_positon: found \"max_positon\", wanted one of max_position,"),
        ({"messages_per_s": "fast"}, 'riskd: messages_per_s: found "fast", wanted a whole number'),
        ({"breaker.failures": 1.5}, "riskd: breaker.failures: found 1.5, wanted a whole number"),
        ({"markets.1": 7}, "riskd: markets.1: found 7, wanted a text"),
        ({"markets.5": "cm"}, "riskd: markets.5: found \"5\" in the list at markets, wanted an index"),
        ({"max_position.x": 1}, 'riskd: max_position.x: found "1000" at max_position, wanted a mapping'),
        ({"side": "sell"}, 'riskd: side: found "sell", wanted one of both, buy'),
        ({"messages_per_s": 500}, "riskd.burst 400: must be at least messages_per_s"),
        ({"..": 1}, "wanted names with dots between them"),
        ({"breaker": {"failures": 1}, "breaker.open_s": 2.0}, "breaker.open_s: found it beside breaker"),
    ],
)  # fmt: skip
async def test_a_bad_value_is_refused_with_its_path_and_what_was_wanted(
    given: dict[str, Any], said: str
) -> None:
    store, change = await site()
    with pytest.raises(InvalidInput) as refused:
        await change.run(asked(set=given))
    assert said in str(refused.value)
    assert len((await store.range(KEYS.root)).entries) == 1, "nothing was written, not even an operation"


async def test_null_takes_a_setting_back_to_the_daemons_default() -> None:
    store, change = await site(max_position="50")
    await change.run(asked(set={"max_position": None}))
    document = (await stands(store)).document
    assert document is not None and document["max_position"] == "1000"


async def test_a_setting_that_only_a_restart_changes_is_named() -> None:
    _, change = await site()
    done = await change.run(asked(set={"folder": "elsewhere", "burst": 500}))
    assert done["restarts"] == ["folder"]


async def test_a_setting_that_names_a_service_is_refused_with_the_reason() -> None:
    store, change = await site()
    with pytest.raises(Refused, match=r"tops: found other, wanted bookd as it is: .*services.yml"):
        await change.run(asked(set={"tops": "other"}))
    assert (await stands(store)).revision == 1


async def test_a_document_that_is_too_large_is_refused_with_both_sizes() -> None:
    store, change = await site()
    with pytest.raises(TooLarge, match="bytes, wanted at most 65536"):
        await change.run(asked(set={"markets": ["spot" * 10] * 5000}))
    with pytest.raises(TooLarge, match=r"found 1000\d+ bytes, wanted a document of at most 65536"):
        config_change.decode(
            msgspec.json.encode({"kind": "set", "reason": "x", "set": {"a": "b" * 1_000_000}})
        )
    assert len((await store.range(KEYS.root)).entries) == 1


async def test_a_change_made_on_an_older_revision_is_shown_with_both_sides() -> None:
    store, change = await site()
    await change.run(asked(set={"max_position": "60"}, reason="too much", actor="bob"))
    complete = configured.spec(max_position="70").settings
    with pytest.raises(Refused) as refused:
        await change.run(asked(document=complete, base=1))
    said = str(refused.value)
    assert "asked on revision 1, and revision 2 (set by bob at" in said
    assert "too much" in said and "both changed max_position" in said
    with pytest.raises(Refused, match="no path was changed by both"):
        await change.run(asked(document=configured.spec(burst=900).settings, base=1))
    assert (await stands(store)).revision == 2
    done = await change.run(asked(document=complete, base=2))
    assert (done["from"], done["to"]) == (2, 3)


async def test_a_rollback_is_a_new_revision_with_the_old_document() -> None:
    store, change = await site()
    await change.run(asked(set={"max_position": "60"}))
    await change.run(asked(set={"burst": 900}))
    done = await change.run(asked(to=2, base=3))
    assert done["changes"] == [{"path": "burst", "old": 900, "new": 400}]
    now = await stands(store)
    assert (now.revision, now.config.revisions[4].restored) == (4, 2)
    assert now.document == now.document_of(2)
    with pytest.raises(InvalidInput, match=r"found no revision 9, wanted one that is kept \(1, 2, 3, 4\)"):
        await change.run(asked(to=9, base=4))


async def test_a_rollback_is_held_against_todays_schema() -> None:
    store, change = await site()
    await change.run(asked(set={"max_position": "60"}))
    old = (await stands(store)).config.revisions[1]
    damaged = {**old.document, "messages_per_s": 100_000}
    await store.put(
        KEYS.config_revision("riskd", 1), model.encode({**msgspec.to_builtins(old), "document": damaged})
    )
    with pytest.raises(InvalidInput, match="burst 400: must be at least"):
        await change.run(asked(to=1, base=2))


async def test_a_whole_document_and_a_rollback_leave_the_services_that_are_used_as_they_are() -> None:
    store, change = await site(tops="bookd2")
    await change.run(asked(document={"max_position": "60"}, base=1))
    document = (await stands(store)).document
    assert document is not None and (document["max_position"], document["tops"]) == ("60", "bookd2")
    row = (await stands(store)).config.revisions[1]
    older = dataclasses.replace(row, document={**row.document, "tops": "bookd1"})
    await store.put(KEYS.config_revision("riskd", 1), model.encode(older))
    done = await change.run(asked(to=1, base=2))
    assert done["changes"] == [{"path": "max_position", "old": "60", "new": "1000"}]


def test_what_may_be_written_can_be_read_to_the_last_level() -> None:
    value: list[Any] = []
    for _ in range(LEVELS_MAX):
        value = [value]
    record = plain.made("x", value)
    assert plain.read(Entry("x", model.encode(record), 1), "x") == record
    documents.encoded({"a": value[0]}, "riskd")
    check_sendable({"a": value[0]})
    for refuse in (lambda: plain.made("x", [value]), lambda: documents.encoded({"a": value}, "riskd")):
        with pytest.raises(InvalidInput, match="at most 20 levels"):
            refuse()
    with pytest.raises(ValueError, match="more than 20 levels"):
        check_sendable({"a": value})


async def test_a_record_that_no_daemon_could_be_given_is_named_and_harms_no_other() -> None:
    store, change = await site()
    await change.run(asked(set={"max_position": "60"}))
    row = (await stands(store)).config.revisions[2]
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    await store.put(KEYS.config_revision("riskd", 2), model.encode(dataclasses.replace(row, document=deep)))
    await store.put(KEYS.plain_key("deep"), b"[" * 300 + b"]" * 300)
    await store.put(KEYS.plain_key("large"), b'"' + b"x" * 5000 + b'"')
    await store.put(KEYS.plain_key("x"), b"1")
    view = await configured.view(store, KEYS)
    assert set(view.plain) == {"x"} and set(view.configs["riskd"].revisions) == {1}
    assert set(view.undecodable) == {
        KEYS.config_revision("riskd", 2),
        KEYS.plain_key("deep"),
        KEYS.plain_key("large"),
    }
    assert (await stands(store)).document is None


@pytest.mark.parametrize("damaged", ["current", "00000002"])
async def test_a_damaged_document_takes_a_whole_one_and_no_single_setting(damaged: str) -> None:
    store, change = await site()
    await change.run(asked(set={"max_position": "60"}))
    await store.put(f"{KEYS.config_of('riskd')}{damaged}", b"{")
    with pytest.raises(Refused, match="damaged; a single setting cannot be set in it"):
        await change.run(asked(set={"burst": 900}))
    base = (await stands(store)).revision
    done = await change.run(asked(document={"burst": 900}, base=base))
    now = await stands(store)
    assert done["to"] == 3 == now.revision and now.document == configured.spec(burst=900).settings


@pytest.mark.parametrize("name", ["", "a/b", "../riskd", "riskd\n", "x" * 200])
async def test_what_is_no_name_of_a_service_is_asked_of_no_store(name: str) -> None:
    _, change = await site()
    with pytest.raises(InvalidInput, match="is not in site lab"):
        await change.run(asked(service=name, set={"a": 1}))


async def test_a_service_that_is_not_there_is_named_with_those_that_are() -> None:
    _, change = await site()
    with pytest.raises(InvalidInput, match=r'service "nobody" is not in site lab \(there are riskd\)'):
        await change.run(asked(service="nobody", set={"a": 1}))


async def test_nothing_is_asked_before_the_site_was_seen() -> None:
    store, _ = await site()
    change = config_change.ConfigChange(store, KEYS, lambda: None, lambda: configured.KINDS)
    with pytest.raises(Unavailable):
        await change.run(asked(set={"burst": 900}))


# --- rollouts -----------------------------------------------------------------------------------------------


async def test_a_rollout_stages_the_revision_and_leaves_what_is_wanted() -> None:
    store, change = await site()
    wish = config_change.RolloutWish(watch_s=1.0)
    done = await change.run(asked(set={"burst": 900}, rollout=wish))
    assert (done["outcome"], done["from"], done["to"]) == ("running", 1, 2)
    now = await stands(store)
    assert now.revision == 1 and now.config.rollout is not None
    rollout: RolloutRecord = now.config.rollout
    assert (rollout.revision, rollout.base, rollout.instances) == (2, 1, ("riskd-alpha-1",))
    assert (rollout.operation, rollout.watch_s, rollout.stage) == (done["operation"], 1.0, "canary")
    wanted = now.config.wanted("riskd-alpha-1"), now.config.wanted("riskd-beta-1")
    assert [row.revision for row in wanted if row is not None] == [2, 1]
    [operation] = await operations(store)
    assert operation.state == "running"
    for more in ({"set": {"burst": 950}}, {"set": {"burst": 950}, "rollout": wish}):
        with pytest.raises(Refused, match=f"rollout of revision 2 by ann is under way .*{done['operation']}"):
            await change.run(asked(**more))


# --- requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "set", "reason": " ", "set": {"a": 1}}, "a reason is wanted"),
        ({"kind": "set", "reason": "x"}, "found no set, wanted set alone with set"),
        ({"kind": "set", "reason": "x", "set": {"a": 1}, "to": 3}, "found to, wanted set alone"),
        ({"kind": "edit", "reason": "x", "document": {}}, "found no base"),
        ({"kind": "rollback", "reason": "x", "base": 1}, "found no to, wanted to alone with rollback"),
        ({"kind": "nothing", "reason": "x"}, "kind"),
        ({"kind": "set", "reason": "x", "set": {"a": 1}, "rollout": {"watch_s": 0}}, "watch_s 0"),
        ({"kind": "set", "reason": "x", "set": {"a": 1}, "rollout": {"metric": "rejects"}}, "NAME > VALUE"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        config_change.decode(msgspec.json.encode(body))


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_comes_as_a_request_is_refused_in_words(body: bytes) -> None:
    for decode in (config_change.decode, config_change.decode_key):
        with contextlib.suppress(InvalidInput, TooLarge):
            decode(body)


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_a_request_of_any_depth_is_refused_in_words(depth: int) -> None:
    inner = b'{"a":' * depth + b"1" + b"}" * depth
    for body in (
        b'{"kind":"apply","base":1,"reason":"x","document":' + inner + b"}",
        b'{"reason":"x","value":' + inner + b"}",
    ):
        for decode in (config_change.decode, config_change.decode_key):
            with contextlib.suppress(InvalidInput, TooLarge):
                decode(body)
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"a": deep}
    with pytest.raises(InvalidInput):
        settings_check.check(configured.RISKD, deep, "riskd")
    with pytest.raises(InvalidInput):
        plain.made("x", deep)
    while deep:  # piece by piece: freeing it at once would go as deep
        deep = deep["a"]


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_whatever_stands_under_a_key_is_a_value_or_none_and_said_so(value: bytes) -> None:
    for key in ("x", "kill_switch"):
        with contextlib.suppress(InvalidInput):
            assert plain.read(Entry(key, value, 1), key).type


# --- plain keys ---------------------------------------------------------------------------------------------


def key(**given: Any) -> config_change.KeyRequest:
    return config_change.KeyRequest(**{"reason": "a test", "actor": "ann", **given})


async def test_a_plain_key_is_put_with_who_and_why_and_deleted() -> None:
    store, change = await site()
    done = await change.run_key("max_position", key(value=5))
    assert (done["type"], done["value"], done["old"], done["outcome"]) == ("int", 5, None, "succeeded")
    found = (await configured.view(store, KEYS)).plain["max_position"]
    assert (found.value, found.type, found.actor, found.reason) == (5, "int", "ann", "a test")
    done = await change.run_key("max_position", key(delete=True))
    assert (done["value"], done["old"]) == (None, 5)
    done = await change.run_key("max_position", key(delete=True))
    assert (done["outcome"], done["reason"]) == ("succeeded", "it was not there")
    kinds = [(each.kind, each.state) for each in await operations(store)]
    assert kinds == [(config_change.KEY_KIND, "succeeded")] * 3


@pytest.mark.parametrize("name", ["a/b", "/a", "a\nb", "", ".a", "-a", "ä", "a b", "a" * 129])
async def test_a_key_that_is_no_name_is_refused(name: str) -> None:
    store, change = await site()
    with pytest.raises(InvalidInput, match="wanted 1 to 128 letters"):
        await change.run_key(name, key(value=1))
    assert len((await store.range(KEYS.root)).entries) == 1


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("kill_switch", {"value": 1}, "kill_switch: found 1, wanted a value of type bool"),
        ("kill_switch", {"value": True, "type": "int"}, "wanted a value of type bool"),
        ("kill_switch", {"value": True, "ttl_s": 60.0}, "found a TTL, wanted none"),
        ("x", {"value": "1", "type": "int"}, 'found "1" as int, wanted a value of type int'),
        ("x", {"value": 1, "type": "whole"}, "found the type 'whole', wanted one of bool"),
        ("x", {"value": 1, "ttl_s": 9.0}, "found a TTL of 9 s, wanted 10 to 86400 s"),
        ("x", {"value": 1, "ttl_s": float("nan")}, "found a TTL of nan s"),
        ("riskd.burst", {"value": 1}, "found the service riskd before a dot"),
    ],
)
async def test_a_value_that_does_not_fit_is_refused(name: str, given: dict[str, Any], said: str) -> None:
    store, change = await site()
    with pytest.raises(InvalidInput, match=said):
        await change.run_key(name, key(**given))
    assert len((await store.range(KEYS.root)).entries) == 1


async def test_a_full_site_still_takes_the_kill_switch() -> None:
    store, _ = await site()
    for number in range(plain.KEYS_MAX):
        await store.put(KEYS.plain_key(f"key-{number}"), b"1")
    change = await configured.change(store, KEYS)
    with pytest.raises(TooLarge, match="found 200 plain keys"):
        await change.run_key("one_more", key(value=1))
    assert (await change.run_key("kill_switch", key(value=True)))["outcome"] == "succeeded"


async def test_a_value_that_is_too_large_is_refused_with_both_sizes() -> None:
    _, change = await site()
    with pytest.raises(TooLarge, match="x: found 1000002 bytes, wanted at most 4096"):
        await change.run_key("x", key(value="v" * 1_000_000))


async def test_an_operation_ends_when_its_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store, change = await site()

    async def away(*given: Any, **named: Any) -> Any:
        raise Unavailable("no answer", ambiguous=True)

    monkeypatch.setattr(revisions, "write", away)
    with pytest.raises(Unavailable):
        await change.run(asked(set={"burst": 900}))
    [operation] = await operations(store)
    assert operation.state == "unknown" and operation.state in log.FINISHED
