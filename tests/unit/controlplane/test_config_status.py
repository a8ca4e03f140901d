"""What status says of configuration: what is in force beside what is wanted, who is late, the kill switch."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from controlplane.cli import by_name, status_text
from controlplane.model import ServiceSpec
from controlplane.model.config import ConfigRevision, CurrentConfig, PlainKey, RolloutRecord, ServiceConfig
from controlplane.site import config_status, look
from controlplane.site.config_status import LATE_MS, RESTART_LATE_MS, ConfigLag
from tests.unit.controlplane.test_status import BOOKD, Site, build, floor, host, observed, service, why_not

MS = 1_000_000


def config(current: int, *, rollout: RolloutRecord | None = None, **documents: Any) -> ServiceConfig:
    """`documents`: r1={...} and so on."""
    rows = {
        int(name[1:]): ConfigRevision("bookd", int(name[1:]), document, "set", "ann", "why", 1)
        for name, document in documents.items()
    }
    return ServiceConfig(CurrentConfig("bookd", current, "n"), rollout, rows)


def site(wanted: ServiceConfig, spec: ServiceSpec = BOOKD, **more: Any) -> Site:
    found = floor()
    found.specs["bookd"] = spec
    found.configs["bookd"] = wanted
    found.hosts["alpha"] = host("alpha", found.hosts["alpha"].instances[0], observed("bookd-alpha-1", **more))
    return found


def row(found: dict[str, Any]) -> dict[str, Any]:
    [instance] = service(found, "bookd")["instances"]
    return dict(instance)


def text(found: dict[str, Any]) -> str:
    return status_text.text(by_name.read(json.dumps(found).encode()))


def test_the_revision_in_force_is_shown_beside_the_wanted_one_where_they_differ() -> None:
    found = build(site(config(4), config_revision=3))
    assert service(found, "bookd")["config_revision"] == 4
    assert (row(found)["config_revision"], row(found)["config_wanted"]) == (3, 4)
    assert "config 3 -> 4" in text(found) and why_not(found) == []
    assert "config" not in text(build(site(config(3), config_revision=3)))


def test_a_refusal_is_shown_with_its_reason() -> None:
    found = build(site(config(4), config_revision=3, config_refused="depth: found 0, wanted 1 or more"))
    assert row(found)["config_refused"] == "depth: found 0, wanted 1 or more"
    assert "config 3 -> 4, config refused: depth: found 0, wanted 1 or more" in text(found)


def test_with_a_silent_agent_the_age_of_what_is_known_is_shown() -> None:
    found = build(site(config(4), config_revision=4), silent_ms={"alpha": 12_000})
    assert row(found)["config_seen_ms"] == 12_000
    assert "config 4 as of 12 s ago" in text(found)


def test_an_instance_that_stays_behind_is_a_reason_and_one_that_has_just_been_told_is_none() -> None:
    behind = site(config(4), config_revision=3)
    assert why_not(build(behind, config_lag_ms={"bookd-alpha-1": LATE_MS})) == []
    [reason] = why_not(build(behind, config_lag_ms={"bookd-alpha-1": LATE_MS + 1000}))
    assert reason.startswith(
        "bookd-alpha-1: revision 4 of its configuration is wanted, and for 6 s 3 has stayed in force: it has "
        "not taken it"
    )


def test_one_that_has_to_be_restarted_is_given_the_time_that_its_group_takes() -> None:
    spec = dataclasses.replace(BOOKD, restart=("depth",))
    lag = {"config_lag_ms": {"bookd-alpha-1": LATE_MS + 1}}
    restarts = site(config(4, r3={"depth": 1, "n": 1}, r4={"depth": 2, "n": 1}), spec, config_revision=3)
    assert why_not(build(restarts, **lag)) == []
    assert why_not(build(restarts, config_lag_ms={"bookd-alpha-1": RESTART_LATE_MS + 1}))
    live = site(config(4, r3={"depth": 1, "n": 1}, r4={"depth": 1, "n": 2}), spec, config_revision=3)
    assert why_not(build(live, **lag))


def test_what_a_rollout_has_in_its_hands_is_no_reason() -> None:
    begun = RolloutRecord("bookd", 4, 3, "op-7", "ann", "why", 1, ("bookd-alpha-1",))
    found = build(
        site(config(3, rollout=begun), config_revision=3), config_lag_ms={"bookd-alpha-1": LATE_MS + 1}
    )
    assert why_not(found) == []
    assert row(found)["config_wanted"] == 4
    assert (service(found, "bookd")["config_revision"], service(found, "bookd")["rollout"]) == (3, "op-7")


def test_a_lag_counts_from_when_it_was_first_seen_and_ends_with_any_step_forward() -> None:
    lag = ConfigLag()
    assert lag.look(site(config(4), config_revision=3), 1_000 * MS) == {"bookd-alpha-1": 0}
    assert lag.look(site(config(5), config_revision=3), 7_000 * MS) == {"bookd-alpha-1": 6_000}
    assert lag.look(site(config(6), config_revision=5), 8_000 * MS) == {"bookd-alpha-1": 0}
    assert lag.look(site(config(6), config_revision=6), 9_000 * MS) == {}
    assert lag.look(site(config(7), config_revision=6), 20_000 * MS) == {"bookd-alpha-1": 0}


def test_what_an_agent_of_an_earlier_release_calls_so_is_not_taken_for_a_revision() -> None:
    assert ConfigLag().look(site(config(4), config_revision=57, spec_revision=0), 1) == {}


def test_one_that_does_not_run_is_not_late() -> None:
    assert ConfigLag().look(site(config(4), config_revision=0, pid=None, state="stopped"), 1) == {}


def test_a_reason_of_configuration_says_no_setting_to_other_users() -> None:
    found = site(config(4), config_revision=3, config_refused="password: found x")
    [late] = config_status.late(
        found, by_name.read(json.dumps(build(found)).encode()).services, {"bookd-alpha-1": LATE_MS + 1}
    )
    from controlplane.site.reasons import Reason

    reason = Reason("config", "bookd-alpha-1", late[1])
    assert "password" in reason.text and "password" not in reason.brief


def test_the_kill_switch_is_at_the_top_with_who_set_it_when_why_and_how_it_is_taken_back() -> None:
    site = floor()
    site.plain["kill_switch"] = PlainKey(True, "bool", "ann", "drill", 1_700_000_000_000 * MS, 60.0)
    found = build(site)
    assert found["healthy"], "trading is stopped as asked for"
    [alarm] = found["alarms"]
    assert (alarm["id"], alarm["severity"]) == (look.KILL_SWITCH, "warning")
    assert alarm["since"] == "2023-11-14T22:13:20.000Z"
    assert text(found).splitlines()[1] == (
        "  KILL SWITCH: the kill switch is on: every order manager refuses new orders and replaces, cancels "
        "pass; set by ann at 2023-11-14T22:13:20.000Z: drill; it ends by itself 60 s after that; `hftctl "
        "config set /kill_switch false --reason WHY` takes it back"
    )


def test_a_kill_switch_that_is_off_is_not_shown() -> None:
    site = floor()
    site.plain["kill_switch"] = PlainKey(False, "bool", "ann", "over", 1)
    assert build(site)["alarms"] == []
