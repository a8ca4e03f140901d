"""The site's kill switch at omsd: no new order and no replacement while it is set, and cancels pass."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.errors import InvalidInput
from hftd import runtime
from hftd.engine import reasons
from hftd.wire import codec, control, orders
from hftd.wire.orders import OrderState
from tests.support.built import built
from tests.support.order_path import Member, OrderPath
from tests.support.order_stage import active, audit


def tell(omsd: Member, flags: dict[str, Any]) -> None:
    omsd.loop._from_agent(codec.encode(control.Flags(codec.VERSION, 1, 0, "agent", None, flags)))


def at_venue(path: OrderPath, kind: type) -> list[str]:
    return [each.client_order_id for each in path.venue.heard if isinstance(each, kind)]


def test_new_orders_and_replacements_are_refused_and_cancels_pass_while_it_is_set(path: OrderPath) -> None:
    omsd = active(path)
    first, second = path.riskd.place(), path.riskd.place()
    for name in (first, second):
        path.until("it works", lambda each=name: path.riskd.states(each) == [OrderState.WORKING])

    tell(omsd, {"kill_switch": True, "theme": "dark"})
    alarm = omsd.context.alarms["kill_switch"]
    assert alarm.severity == "warning" and "the site's kill switch is set" in alarm.text
    new, replacing = path.riskd.place(), path.riskd.place(replaces=first)
    for name in (new, replacing):
        path.until("it is refused", lambda each=name: path.riskd.states(each) == [OrderState.REFUSED])
        assert path.riskd.reasons(name) == [reasons.KILL_SWITCH]
    path.until(
        "what was to be replaced is gone", lambda: path.riskd.states(first)[-1] is OrderState.CANCELLED
    )
    path.riskd.cancel(second)
    path.until("a cancel passes", lambda: path.riskd.states(second)[-1] is OrderState.CANCELLED)
    assert at_venue(path, orders.Place) == [first, second]
    assert omsd.context.counters["kill_switch_refusals"] == 2
    path.until("the refusals are in the audit", lambda: audit(path).count("ORDER_REFUSED") == 2)

    tell(omsd, {"kill_switch": False})
    assert "kill_switch" not in omsd.context.alarms
    after = path.riskd.place()
    path.until("orders pass again", lambda: path.riskd.states(after) == [OrderState.WORKING])
    assert omsd.happened("omsd.kill_switch") == [{"on": True}, {"on": False}]


@pytest.mark.parametrize(
    ("flags", "on"),
    [
        ({}, False),
        ({"kill_switch": False}, False),
        ({"kill_switch": True}, True),
        ({"kill_switch": None}, True),
    ],
)
def test_it_is_known_before_the_first_order_and_what_is_not_known_counts_as_set(
    flags: dict[str, Any], on: bool
) -> None:
    with built("omsd", flags=flags) as one:
        assert one.daemon.kill_switch.on is on
        assert ("kill_switch" in one.context.alarms) is on
        if flags.get("kill_switch", ...) is None:
            alarm = one.context.alarms["kill_switch"]
            assert alarm.severity == "critical" and "counts as set (is not known)" in alarm.text


@pytest.mark.parametrize("value", ["no", 0, 1, None, [], {"value": False}])
def test_whatever_is_neither_yes_nor_no_counts_as_set(value: object) -> None:
    with built("omsd") as one:
        one.tell(control.Flags, {"kill_switch": value})
        assert one.daemon.kill_switch.on
        one.tell(control.Flags, {"kill_switch": False})
        assert not one.daemon.kill_switch.on
        one.tell(control.Flags, {"kill_switch": value})
        one.tell(control.Flags, {})
        assert not one.daemon.kill_switch.on, "the key was deleted"


def test_a_bad_message_leaves_the_flags_and_each_callback_hears_of_its_own_alone() -> None:
    with built("bookd", flags={"theme": "dark"}) as one:
        heard: list[tuple[object, object]] = []

        def refuses(old: object, new: object) -> None:
            raise InvalidInput("cannot be used")

        one.loop.on_flag("theme", refuses)
        one.loop.on_flag("theme", lambda old, new: heard.append((old, new)))
        one.loop.on_flag("other", lambda old, new: heard.append(("other", new)))
        with pytest.raises(InvalidInput):
            one.tell(control.Flags, ["theme"])
        assert one.context.flag("theme") == "dark" and heard == []
        one.tell(control.Flags, {"theme": "light"})
        one.tell(control.Flags, {"theme": "light"})
        assert heard == [("dark", "light")], "once, whatever another callback makes of it"
        one.tell(control.Flags, {"other": True})
        assert heard[1:] == [("light", None), ("other", True)]
        assert one.context.flag("theme", "grey") == "grey"
        assert "flag theme: cannot be used" in one.context.alarms["undecodable"].text


def test_a_message_never_changes_the_mapping_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with built("bookd", flags={"a": 1}) as one:
        before = one.context.flags
        one.tell(control.Flags, {"a": 2})
        assert before == {"a": 1} and one.context.flags == {"a": 2}
    assert isinstance(one.context, runtime.Context)
