"""What a host's instances are to run: as the store says, and where it cannot say, as it was last good."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents import wanted_config
from agents.supervisor.program import Configuration
from agents.wanted_config import WantedConfig
from controlplane import model
from controlplane.model import Mode, ServiceSpec
from controlplane.model.config import ConfigRevision, CurrentConfig, PlainKey, RolloutRecord
from controlplane.site import nouns
from controlplane.site.view import SiteView
from controlplane.store import Entry, Keys, Snapshot

KEYS = Keys("lab")
RISK = ServiceSpec("riskd", "riskd", Mode.ACTIVE_STANDBY, ("alpha", "beta"), settings={"limit": 1})
ALPHA, _ = RISK.slots()
OF_FILE = Configuration(1, {"limit": 1})


def revision(number: int, **document: Any) -> ConfigRevision:
    return ConfigRevision("riskd", number, document, "set", "ann", "why", 1)


def records(current: int | None = None, *revisions: ConfigRevision) -> dict[str, object]:
    found: dict[str, object] = {KEYS.config_revision("riskd", each.revision): each for each in revisions}
    if current is not None:
        found[KEYS.config_current("riskd")] = CurrentConfig("riskd", current, "n")
    return found


def rollout(to: int, *instances: str, base: int = 2, stage: str = "canary") -> dict[str, object]:
    record = RolloutRecord("riskd", to, base, "op-1", "ann", "why", 1, instances, stage)
    return {KEYS.config_rollout("riskd"): record}


def view(found: Mapping[str, object], incarnation: int | None = 5) -> SiteView:
    entries = {}
    if incarnation is not None:
        found = {**found, KEYS.incarnation: str(incarnation).encode()}
    for key, record in found.items():
        value = record if isinstance(record, bytes) else model.encode(record)
        entries[key] = Entry(key, value, 7)
    return nouns.view_of(KEYS, Snapshot(7, entries))


def switch(value: object) -> dict[str, object]:
    return {KEYS.plain_key("kill_switch"): PlainKey(value, "bool", "ann", "drill")}


class Host:
    def __init__(self, folder: Path, started_with: Configuration | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.path = folder / "config.json"
        self.started_with = started_with
        self.again()

    def again(self) -> WantedConfig:
        """Its next agent."""
        self.wanted = WantedConfig(
            self.path,
            "alpha",
            lambda kind, **fields: self.events.append((kind, fields)),
            lambda instance: self.started_with,
        )
        return self.wanted

    def take(self, found: SiteView | None, *, known: bool = True) -> wanted_config.InForce:
        self.wanted.take(found, [(RISK, known)])
        self.wanted.write(self.wanted._kept)
        return self.wanted.of(RISK, ALPHA)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# --- settings -----------------------------------------------------------------------------------------------


def test_without_a_record_the_settings_of_the_services_file_are_the_first_revision(host: Host) -> None:
    assert host.take(view({})) == wanted_config.InForce(OF_FILE, 1)
    assert host.wanted.sentence() == "" == host.wanted.switch_trouble()


def test_the_wanted_document_is_in_force_and_survives_an_agent_that_starts_without_a_store(
    host: Host,
) -> None:
    host.take(view({}))
    found = host.take(view(records(2, revision(1, limit=1), revision(2, limit=9))))
    assert (found.config, found.wanted, found.why) == (Configuration(2, {"limit": 9}), 2, "")
    assert ("config.wanted", {"instance": ALPHA.instance, "revision": 2, "before": 1}) in host.events
    host.again()
    assert host.take(None).config == Configuration(2, {"limit": 9})


def test_a_rollout_is_for_its_instances_alone_and_is_taken_back_by_deleting_it(host: Host) -> None:
    rows = records(2, revision(2, limit=2), revision(3, limit=3))
    assert host.take(view(rows | rollout(3, "riskd-beta-1"))).config.revision == 2
    found = host.take(view(rows | rollout(3, ALPHA.instance)))
    assert (found.config, found.wanted) == (Configuration(3, {"limit": 3}), 3)
    assert host.take(view(rows | rollout(3, ALPHA.instance, stage="revert"))).config.revision == 2
    assert host.take(view(rows)).config.revision == 2


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({KEYS.config_revision("riskd", 3): b"{"}, "the document of revision 3 does not decode ("),
        ({}, "the document of revision 3 is not in the store, revision 2 stays"),
    ],
)
def test_a_document_that_cannot_be_had_leaves_the_last_good_in_force_and_is_named(
    host: Host, damage: dict[str, object], why: str
) -> None:
    good = records(2, revision(2, limit=2))
    host.take(view(good))
    bad = view({**good, **records(3), **damage})
    for _ in range(2):
        found = host.take(bad)
        assert (found.config, found.wanted) == (Configuration(2, {"limit": 2}), 3)
        assert found.why.startswith(why) and host.wanted.sentence().startswith(f"{ALPHA.instance}: {why}")
        host.again()
    healed = host.take(view({**good, **records(3, revision(3, limit=3))}))
    assert healed.config.revision == 3 and host.wanted.sentence() == ""


def test_a_document_that_no_message_can_carry_is_as_one_that_does_not_decode(host: Host) -> None:
    good = records(2, revision(2, limit=2))
    host.take(view(good))
    bad = model.encode(revision(3, limit=0)).replace(b'"limit":0', b'"limit":%d' % 10**30)
    found = host.take(view({**good, **records(3), KEYS.config_revision("riskd", 3): bad}))
    assert found.config.revision == 2 and "does not decode" in found.why
    host.take(view({KEYS.plain_key("n"): b"123456789012345678901234567890"}))
    assert host.wanted.flags() == {}


def test_a_first_document_that_cannot_be_had_is_named_and_the_spec_is_in_force(host: Host) -> None:
    found = host.take(view(records(3)))
    assert (found.config, found.wanted) == (OF_FILE, 3)
    assert found.why.endswith("no earlier one is known here: it has what its spec says")


@pytest.mark.parametrize("damage", [{KEYS.config_current("riskd"): b"{"}, {}])
def test_a_record_of_the_wanted_revision_that_is_lost_changes_nothing(
    host: Host, damage: dict[str, object]
) -> None:
    rows = records(None, revision(2, limit=2))
    host.take(view({**rows, **records(2)}))
    host.again()
    found = host.take(view({**rows, **damage}))
    assert found.config == Configuration(2, {"limit": 2}) and "the record of its wanted revision" in found.why


def test_a_rollout_that_does_not_decode_leaves_its_instances_what_they_have(host: Host) -> None:
    rows = records(2, revision(2, limit=2), revision(3, limit=3))
    host.take(view(rows | rollout(3, ALPHA.instance)))
    host.again()
    found = host.take(view({**rows, KEYS.config_rollout("riskd"): b"{"}))
    assert (found.config.revision, found.wanted) == (3, 2)
    assert found.why == "the record of its rollout does not decode, revision 3 stays"
    assert host.take(view(rows)).config.revision == 2


def test_a_service_whose_spec_the_store_has_lost_keeps_its_settings(host: Host) -> None:
    host.take(view(records(2, revision(2, limit=2))))
    assert host.take(view({}), known=False).config == Configuration(2, {"limit": 2})
    assert host.take(view({})).config == OF_FILE, "the store says so"


def test_a_service_that_comes_back_does_not_begin_with_what_it_had_before(host: Host) -> None:
    rows = records(None, revision(2, limit=2))
    host.take(view({**rows, **records(2)}))
    host.wanted.take(view(rows), [])
    assert host.take(view(rows)).config == OF_FILE


# --- plain keys ---------------------------------------------------------------------------------------------


def test_the_kill_switch_survives_an_agent_that_starts_without_a_store(host: Host) -> None:
    host.take(view(switch(True)))
    assert host.events == [("kill_switch.set", {})]
    again = host.again()
    assert again.flags() == {"kill_switch": True}
    assert again.told_flags() is None, "what its daemons were told may be newer than the disk"
    host.take(view({}))
    assert again.flags() == {} == again.told_flags()
    assert host.events[-1] == ("kill_switch.cleared", {})


def test_a_store_that_lost_its_data_does_not_take_the_kill_switch_back(host: Host) -> None:
    host.take(view(switch(True), incarnation=5))
    host.again()
    for _ in range(2):
        host.take(view({}, incarnation=6))
        assert host.wanted.flags() == {"kill_switch": True}
        assert "was set in the store before it lost its data" in host.wanted.switch_trouble()
    host.take(view(switch(False), incarnation=6))
    assert host.wanted.flags() == {"kill_switch": False} and host.wanted.switch_trouble() == ""
    host.take(view({}, incarnation=6))
    assert host.wanted.flags() == {}


def test_a_record_of_the_kill_switch_that_could_never_be_read_counts_as_set(host: Host) -> None:
    bad = {KEYS.plain_key("kill_switch"): b'"maybe"'}
    host.take(view(bad))
    assert host.wanted.flags() == {"kill_switch": None}
    assert "does not decode" in host.wanted.switch_trouble()
    host.take(view(switch(False)))
    assert host.wanted.switch_trouble() == ""
    host.again()
    host.take(view(bad))
    assert host.wanted.flags() == {"kill_switch": False}, "known before"


def test_a_plain_key_that_becomes_rubbish_keeps_its_last_value(host: Host) -> None:
    host.take(view({KEYS.plain_key("size"): PlainKey(3, "int")}))
    host.again()
    host.take(view({KEYS.plain_key("size"): model.encode(PlainKey("x", "int"))}))
    assert host.wanted.flags() == {"size": 3}


# --- the disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"configs": {"riskd-alpha-1": 3}}'])
def test_a_damaged_file_is_set_aside_and_the_kill_switch_counts_as_set_until_the_store_answers(
    host: Host, content: bytes
) -> None:
    host.path.write_bytes(content)
    host.again()
    assert "set aside as config.json.damaged-" in host.wanted.trouble
    assert host.wanted.flags() == {"kill_switch": None}
    assert host.wanted.told_flags() is None, "those that run know it better"
    assert "the store has not answered yet" in host.wanted.switch_trouble()
    host.take(view({}))
    assert host.wanted.flags() == {} and host.wanted.switch_trouble() == ""
    assert host.again().trouble == "", "a good one is in its place"


def test_a_file_that_was_lost_counts_as_damaged_where_services_have_run(host: Host) -> None:
    host.take(view({}))
    host.path.unlink()
    lost = WantedConfig(host.path, "alpha", lambda kind, **fields: None, expected=True)
    assert "not there" in lost.trouble and lost.flags() == {"kill_switch": None}
    assert "the store has not answered yet" in lost.switch_trouble()
    lost.take(view({}), [(RISK, True)])
    assert lost.flags() == {} and lost.switch_trouble() == ""


def test_a_host_that_is_new_has_no_kill_switch(host: Host) -> None:
    assert host.wanted.trouble == "" and host.wanted.flags() == {}


def test_without_a_file_and_a_store_an_instance_starts_with_what_its_last_process_had(tmp_path: Path) -> None:
    had = Configuration(4, {"limit": 4})
    host = Host(tmp_path, started_with=had)
    assert host.take(None).config == had
    assert host.take(view({})).config == OF_FILE, "the store says so"


def test_the_rendered_config_of_an_earlier_release_is_the_first_revision(tmp_path: Path) -> None:
    path = tmp_path / "riskd-alpha-1.config.json"
    assert wanted_config.rendered(path) is None
    path.write_text('{"revision": 57, "settings": {"limit": 1}}')
    assert wanted_config.rendered(path) == OF_FILE
    path.write_text('{"revision": 4, "settings": {"limit": 4}, "flags": {}}')
    assert wanted_config.rendered(path) == Configuration(4, {"limit": 4})
    path.write_text("{")
    assert wanted_config.rendered(path) is None


def test_only_the_instances_of_the_host_are_kept(host: Host) -> None:
    host.take(view({}))
    assert set(host.wanted._kept.configs) == {ALPHA.instance}
    other = dataclasses.replace(RISK, hosts=("beta",))
    host.wanted.take(view({}), [(other, True)])
    assert host.wanted._kept.configs == {}
