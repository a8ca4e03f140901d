"""`apply` of a services file whose settings changed: the store wins, and what both changed is a conflict."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from controlplane import model
from controlplane.config import revisions
from controlplane.errors import Refused
from controlplane.model import ServiceSpec
from controlplane.operations import config_change
from controlplane.specs import apply as specs_apply
from controlplane.specs.apply import Applied, Plan
from controlplane.store import Keys, Put
from controlplane.store.limits import OPERATIONS_MAX
from controlplane.store.memory import Memory, MemoryStore
from tests.support import configured
from tests.support.configured import asked

pytestmark = pytest.mark.anyio
KEYS = Keys("lab")
NOW_NS = 1_700_000_000_000_000_000
NUMBERS = iter(range(1_000_000))


async def plan(store: MemoryStore, *wanted: ServiceSpec, settings: str = "") -> Plan:
    return await specs_apply.plan(store, KEYS, wanted, settings, lambda: configured.KINDS)


async def carry_out(store: MemoryStore, made: Plan) -> Applied:
    return await specs_apply.apply(
        store, KEYS, made, operation=f"apply-{next(NUMBERS)}", actor="ann", reason="a file", now_ns=NOW_NS
    )


async def apply(store: MemoryStore, *wanted: ServiceSpec, settings: str = "") -> Applied:
    return await carry_out(store, await plan(store, *wanted, settings=settings))


async def change(store: MemoryStore, **given: Any) -> dict[str, Any]:
    return await (await configured.change(store, KEYS)).run(asked(**given))


async def stands(store: MemoryStore, service: str = "riskd") -> revisions.Standing:
    return await revisions.read(store, KEYS, service)


async def document(store: MemoryStore) -> dict[str, Any]:
    found = (await stands(store)).document
    assert found is not None
    return dict(found)


def said(made: Plan) -> list[str]:
    return [str(each) for each in (*made.changes, *made.notes, *made.blocked)]


async def test_a_new_service_has_its_spec_alone_and_a_changed_file_is_a_revision_with_its_history() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec(burst=500))
    assert (await store.range(KEYS.config)).entries == {}
    done = await apply(store, configured.spec(burst=600))
    now = await stands(store)
    assert now.revision == 2 and now.document == configured.spec(burst=600).settings
    first, second = now.config.revisions[1], now.config.revisions[2]
    assert first.document == configured.spec(burst=500).settings
    assert (second.kind, second.actor, second.reason) == ("services_file", "ann", "a file")
    assert second.operation == done.operation


async def test_a_setting_that_only_the_store_changed_stays_through_any_apply() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    await change(store, set={"max_position": "60"})
    before = store.memory.revision
    again = await apply(store, configured.spec())
    assert (again.operation, store.memory.revision) == (None, before), "the same file writes nothing"
    made = await plan(store, configured.spec(burst=900))
    assert said(made) == ["~ riskd.settings.burst: 400 -> 900"]
    await carry_out(store, made)
    found = await document(store)
    assert (found["burst"], found["max_position"]) == (900, "60")
    assert (await stands(store)).revision == 3


async def test_a_setting_that_both_changed_is_a_conflict_and_nothing_is_written() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec(max_position="50"))
    await change(store, set={"max_position": "60", "burst": 900}, reason="too much", actor="bob")
    before = store.memory.revision
    made = await plan(store, configured.spec(max_position="70", burst=800, messages_per_s=100))
    [first, second, hint] = made.blocked
    assert first.startswith(
        '! riskd.settings.max_position: changed on both sides: the file had "50" when it was applied last '
        'and has "70" now, the store has "60", revision 2 (set by bob at '
    )
    assert first.endswith(": too much)") and "burst" in second and "--settings store" in hint
    done = await carry_out(store, made)
    assert (done.outcome, done.operation, done.not_applied) == ("refused", None, ("riskd",))
    assert store.memory.revision == before


@pytest.mark.parametrize(("side", "max_position"), [("file", "70"), ("store", "60")])
async def test_a_conflict_is_settled_by_name_once(side: str, max_position: str) -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec(max_position="50"))
    await change(store, set={"max_position": "60", "burst": 900})
    file = configured.spec(max_position="70", messages_per_s=100)
    made = await plan(store, file, settings=side)
    stays = '= riskd.settings.max_position: "60" stays, as in the store (the file has "70")'
    assert (stays in said(made)) == (side == "store") and not made.blocked
    done = await carry_out(store, made)
    assert done.outcome == "succeeded"
    found = await document(store)
    assert (found["max_position"], found["burst"], found["messages_per_s"]) == (max_position, 900, 100)
    assert (await plan(store, file)).steps == (), "the file as it is now was applied"


async def test_both_sides_to_the_same_value_is_no_conflict_and_no_new_revision() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    await change(store, set={"max_position": "60"})
    file = configured.spec(max_position="60")
    made = await plan(store, file)
    assert said(made) == [] and len(made.steps) == 1
    await carry_out(store, made)
    assert (await stands(store)).revision == 2 and (await plan(store, file)).steps == ()


async def test_what_does_not_fit_together_is_refused_before_anything_is_written() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    await change(store, set={"messages_per_s": 390})
    before = store.memory.revision
    with pytest.raises(Refused, match=r"do not fit together: riskd: .*burst 300: must be at least"):
        await plan(store, configured.spec(burst=300))
    assert store.memory.revision == before


async def test_a_rollout_under_way_holds_up_a_file_that_changes_its_settings_and_no_other() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    done = await change(store, set={"burst": 900}, rollout=config_change.RolloutWish())
    made = await plan(store, configured.spec(max_position="60"))
    [line] = made.blocked
    assert done["operation"] in line
    assert (await carry_out(store, made)).outcome == "refused"
    moved = dataclasses.replace(configured.spec(), hosts=("alpha",))
    assert (await apply(store, moved)).outcome == "succeeded"


async def test_a_removed_service_keeps_its_history_and_comes_back_with_the_next_number() -> None:
    store = MemoryStore(Memory())
    other = configured.spec("otherd")
    await apply(store, configured.spec(), other)
    await change(store, set={"max_position": "60"})
    await change(store, set={"max_position": "70"}, rollout=config_change.RolloutWish())
    await apply(store, other)
    now = await stands(store)
    assert (now.config.current, now.config.rollout) == (None, None)
    assert sorted(now.config.revisions) == [1, 2, 3]
    await apply(store, configured.spec(max_position="80"), other)
    now = await stands(store)
    assert now.revision == 4 and sorted(now.config.revisions) == [1, 2, 3, 4]
    assert now.document == configured.spec(max_position="80").settings
    assert now.config.revisions[4].kind == "services_file"
    await change(store, set={"max_position": "90"})
    assert (await stands(store)).revision == 5


async def test_a_spec_that_does_not_decode_takes_no_change_out_of_the_store_in_silence() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    await change(store, set={"max_position": "60"})
    await store.put(KEYS.spec("riskd"), b"{")
    made = await plan(store, configured.spec())
    assert any(each.path == "max_position" for each in made.conflicts)
    await apply(store, configured.spec(), settings="store")
    assert (await document(store))["max_position"] == "60"


async def test_a_change_of_the_configuration_after_the_plan_is_a_conflict() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    made = await plan(store, configured.spec(burst=900))
    await change(store, set={"max_position": "60"})
    done = await carry_out(store, made)
    assert done.outcome == "refused" and "riskd: planned on the configuration" in done.reason
    found = await document(store)
    assert (found["max_position"], found["burst"]) == ("60", 400)
    assert (await apply(store, configured.spec(burst=900))).outcome == "succeeded"
    found = await document(store)
    assert (found["max_position"], found["burst"]) == ("60", 900)


async def test_a_file_that_changes_many_services_goes_in_transactions_that_every_store_takes() -> None:
    store = MemoryStore(Memory())
    names = [f"riskd-{number}" for number in range(40)]
    await apply(store, *(configured.spec(name) for name in names))
    made = await plan(store, *(configured.spec(name, burst=900) for name in names))
    author = specs_apply.Author("ann", "why", "apply-1", NOW_NS)
    groups = list(specs_apply.batches(made, KEYS, author))
    assert len(groups) > 1 and sum(map(len, groups)) == 40
    for parts in groups:
        operations = sum(part.operations for part in parts)
        written = [each.key for part in parts for each in part.then]
        assert operations <= OPERATIONS_MAX and len(set(written)) == len(written)
        assert all(isinstance(part.then[0], Put) for part in parts)
    done = await carry_out(store, made)
    assert len(done.applied) == 40
    assert {(await stands(store, name)).revision for name in names} == {2}


async def test_two_that_settle_a_conflict_for_different_sides_do_not_both_succeed() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec(max_position="50"))
    await change(store, set={"max_position": "60", "burst": 900})
    file = configured.spec(max_position="70", burst=800)
    made = [await plan(store, file, settings=side) for side in ("file", "store", "file")]
    done = [await carry_out(store, each) for each in made]
    assert [each.outcome for each in done] == ["succeeded", "refused", "succeeded"], "the same is as wanted"
    found = await document(store)
    assert (found["max_position"], found["burst"]) == ("70", 800)
    assert (await stands(store)).revision == 3


async def test_what_another_release_derives_is_written_and_said() -> None:
    store = MemoryStore(Memory())
    older = dataclasses.replace(configured.spec(), restart=None)
    await store.put(KEYS.spec("riskd"), model.encode(older))
    made = await plan(store, configured.spec())
    assert said(made) == ["= riskd: as it is, but for what follows from its daemon's schema"]
    await carry_out(store, made)
    assert (await stands(store)).spec == configured.spec() and (await stands(store)).revision == 1


async def test_a_service_that_is_given_another_daemon_takes_the_files_settings_whole() -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    await change(store, set={"max_position": "60"})
    other = dataclasses.replace(configured.spec(), daemon="otherd", settings={"speed": 1})
    made = await plan(store, other)
    assert '~ riskd.settings.max_position: "60" -> nothing' in said(made) and not made.blocked
    await carry_out(store, made)
    assert await document(store) == {"speed": 1} and (await stands(store)).revision == 3


@pytest.mark.parametrize("damaged", [KEYS.config_current("riskd"), KEYS.config_revision("riskd", 2)])
async def test_a_damaged_document_is_not_replaced_by_the_file_in_silence(damaged: str) -> None:
    store = MemoryStore(Memory())
    await apply(store, configured.spec())
    await change(store, set={"max_position": "60"})
    await store.put(damaged, b"{")
    before = store.memory.revision
    assert (await apply(store, configured.spec())).operation is None, "the same file changes nothing"
    with pytest.raises(Refused, match=r"damaged.*--settings file puts the file's there"):
        await plan(store, configured.spec(burst=900))
    assert store.memory.revision == before
    assert (await apply(store, configured.spec(burst=900), settings="file")).outcome == "succeeded"
    now = await stands(store)
    assert now.revision == 3 and now.document == configured.spec(burst=900).settings and not now.damaged
