"""An operator's override of breakers is told to every daemon, ends in boot time, and outlives the store and
the agent.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import breaker_overrides, bus
from agents.breaker_overrides import BreakerOverrides
from controlplane import model, store
from controlplane.clock import FakeClock
from controlplane.model import Process
from controlplane.model.records import BreakerOverride
from controlplane.store import Keys
from hftd.wire import codec
from hftd.wire.control import BreakerOnWire, OverrideOnWire, Status

KEYS = Keys("lab")
SECOND_NS = 10**9


class Bus:
    def __init__(self) -> None:
        self.reports = {"omsd-alpha-1": None}
        self.told: list[list[OverrideOnWire]] = []

    def overrides(self, name: str, overrides: list[OverrideOnWire]) -> None:
        if not self.told or self.told[-1] != overrides:
            self.told.append(overrides)


class Host:
    """One agent's part, started again and again on one disk."""

    def __init__(self, folder: Path) -> None:
        self.path, self.clock = folder / "breakers.json", FakeClock()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.start()

    def start(self) -> None:
        self.bus = Bus()
        self.overrides = BreakerOverrides(
            self.path,
            self.bus,  # type: ignore[arg-type]
            self.clock,
            lambda kind, **fields: self.events.append((kind, fields)),
        )

    def left_s(self) -> float:
        (each,) = self.overrides.in_force()
        return (each.until_boot_ns - self.clock.boot_ns()) / 1e9


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def an_override(id: str = "breaker-open-1", for_s: float | None = None) -> BreakerOverride:
    return BreakerOverride("execd.simd", "forced_open", id, "ops", "venue asked", 1, for_s)


def test_what_the_store_says_is_told_and_its_end_too(host: Host) -> None:
    host.overrides.take({"execd.simd": an_override()})
    assert host.bus.told == [[OverrideOnWire("execd.simd", "forced_open", "venue asked", 0)]]
    host.overrides.take({})
    assert host.bus.told[-1] == []
    assert [kind for kind, _ in host.events] == ["breaker.override", "breaker.override_ended"]
    assert host.events[0][1]["reason"] == "venue asked"


def test_it_ends_by_the_boot_clock_from_when_the_host_heard_of_it(host: Host) -> None:
    host.clock.advance_s(100)
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})
    host.clock.advance_s(30)
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})  # the same one, seen again
    assert host.left_s() == 30.0
    assert host.overrides.look() == []
    host.clock.advance_s(30)
    assert host.overrides.look() == [an_override(for_s=60.0)]
    assert host.bus.told[-1] == []


def test_one_that_has_ended_here_does_not_begin_again_while_it_stands_in_the_store(host: Host) -> None:
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})
    host.clock.advance_s(61)
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})
    host.start()
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})
    assert host.overrides.in_force() == []
    host.overrides.take({"execd.simd": an_override("breaker-open-2", for_s=60.0)})
    assert host.left_s() == 60.0, "another one has an end of its own"


def test_an_agent_without_a_store_obeys_what_its_disk_says(host: Host) -> None:
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})
    host.clock.advance_s(20)
    host.start()
    assert host.left_s() == 40.0
    host.overrides.tell("omsd-alpha-1")
    assert [each.name for each in host.bus.told[-1]] == ["execd.simd"]


def test_a_record_that_became_rubbish_does_not_take_an_override_back(host: Host) -> None:
    """The agent was restarted, so its view has no last good record either."""
    host.overrides.take({"execd.simd": an_override()})
    host.start()
    host.overrides.take({}, lambda name: name == "execd.simd")
    assert [each.name for each in host.overrides.in_force()] == ["execd.simd"]
    host.overrides.take({})
    assert host.overrides.in_force() == []


def test_after_a_reboot_the_rest_counts_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.overrides.take({"execd.simd": an_override(for_s=60.0)})
    for _ in range(20):
        host.clock.advance_s(1)
        host.overrides.look()
    monkeypatch.setattr(breaker_overrides.identity, "boot_id", lambda: "another")
    host.clock = FakeClock(boot_ns=5 * SECOND_NS)
    host.start()
    assert 40.0 <= host.left_s() <= 40.0 + breaker_overrides.REMEMBER_EVERY_S


def test_a_damaged_file_is_set_aside_and_said(host: Host) -> None:
    host.path.write_bytes(b'{"execd.simd": {"override": 7}}')
    host.start()
    assert host.overrides.in_force() == []
    assert "not the overrides of breakers" in host.overrides.trouble
    assert "set aside" in host.overrides.trouble
    host.overrides.take({"execd.simd": an_override()})
    host.start()
    assert (len(host.overrides.in_force()), host.overrides.trouble) == (1, "")


def test_without_a_readable_file_nothing_is_taken_back_until_the_store_is_seen(host: Host) -> None:
    host.path.write_bytes(b"rubbish")
    host.start()
    host.overrides.tell_all()
    assert host.bus.told == []
    host.overrides.take({})
    assert host.bus.told == [[]]


def test_a_daemon_that_obeys_what_an_earlier_agent_told_it_hears_that_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The agent was replaced, and the override taken back meanwhile."""
    name, sent = "omsd-alpha-1", list[list[OverrideOnWire]]()
    links = bus.Bus("ipc:///nowhere", "agent-alpha", None)  # type: ignore[arg-type]
    monkeypatch.setattr(links, "_send", lambda name, make, overrides: sent.append(overrides) or True)
    report = bus.Reported(Process(name, "boot", 1, 1), "omsd", "", {}, b"")
    links.reports[name] = report
    links.overrides(name, [])
    assert sent == [], "nothing is known of it yet"
    forced = BreakerOnWire("omsd.execd", "forced_open", True, "venue asked", 0, 0, 0, 0, 0)
    for row, wanted in ((msgspec.structs.replace(forced, forced=False, state="open"), []), (forced, [[]])):
        report.status = Status(*codec.no_head(name), True, "", "active", 1, {}, {}, {}, [], breakers=[row])
        links.overrides(name, [])
        links.overrides(name, [])
        assert sent == wanted
    links._socket.close()
    links._context.term()


@pytest.mark.anyio
async def test_the_end_takes_the_record_out_of_the_store_unless_it_is_another(host: Host) -> None:
    writer = store.connect("memory://test-breaker-overrides")
    ended, another = an_override(for_s=60.0), an_override("breaker-open-2")
    key = KEYS.breaker_override("execd.simd")
    await writer.put(key, model.encode(another))
    await breaker_overrides._remove(writer, KEYS, ended)
    assert await writer.get(key) is not None
    await writer.put(key, model.encode(ended))
    await breaker_overrides._remove(writer, KEYS, dataclasses.replace(ended))
    assert await writer.get(key) is None
