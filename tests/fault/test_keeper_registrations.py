"""Processes that the agent names late, or not for long: which of them stand in discovery, and for how long.

A keeper that was stopped for a moment reads several tables in one turn of its loop; what it was to do about
the death of a process comes after all of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.keeper import protocol
from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.model import Mode, Process, records
from tests.support.keepers import KEYS, SERVICE, Daemon, Floor, run, until


def row(daemon: Daemon) -> protocol.WantedProcess:
    """Of a service without a leader: nothing but its registration is kept."""
    return replace(daemon.entry(), mode=Mode.REPLICAS, lease=None)


async def registered(floor: Floor, instance: str) -> Process | None:
    entry = await floor.store.get(KEYS.registration(SERVICE, instance))
    return model.decode(records.Registration, entry.value).process if entry else None


def died(floor: Floor) -> list[Process]:
    told = (message for message in floor.told if isinstance(message, protocol.FromKeeper))
    return [message.died.process for message in told if message.died is not None]


def test_a_process_named_after_its_death_takes_nothing_from_its_successor(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        keeper = await floor.keeper("alpha")
        daemon, other = floor.daemon("alpha"), floor.daemon("alpha", "riskd")
        late = row(daemon)
        daemon.end()
        present = row(daemon.start())
        keeper.apply(protocol.Table((late,)))
        keeper.apply(protocol.Table((present,)))
        await until(lambda: daemon.instance in keeper.registry.held(), "the successor is registered")
        assert await registered(floor, daemon.instance) == daemon.process

        keeper.apply(protocol.Table((row(other),)))
        await until(lambda: other.instance in keeper.registry.held(), "the next table is in force")
        assert await registered(floor, daemon.instance) is None, "named no more, and still in discovery"

    run(tmp_path, case)


def test_a_process_named_after_its_death_is_registered_by_no_table(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        keeper = await floor.keeper("alpha")
        daemon, other = floor.daemon("alpha"), floor.daemon("alpha", "riskd")
        late = row(daemon)
        keeper.apply(protocol.Table((late,)))
        await until(lambda: daemon.instance in keeper.registry.held(), "it is registered")
        daemon.end()
        keeper.apply(protocol.Table((late, row(other))))  # its death is not seen yet
        await until(lambda: daemon.process in died(floor), "its death is told")
        keeper.apply(protocol.Table((late, row(other))))
        assert died(floor) == [daemon.process] * 2, "a new agent may not have heard it"
        await until(lambda: list(keeper.registry.held()) == [other.instance], "the dead one is taken out")
        assert await registered(floor, daemon.instance) is None

    run(tmp_path, case)


def test_of_a_table_that_is_refused_for_one_row_nothing_is_taken(tmp_path: Path) -> None:
    async def case(floor: Floor) -> None:
        keeper = await floor.keeper("alpha")
        daemon, other = floor.daemon("alpha"), floor.daemon("alpha", "riskd")
        keeper.apply(protocol.Table((row(daemon),)))
        await until(lambda: daemon.instance in keeper.registry.held(), "it is registered")
        successor = replace(row(daemon), process=replace(other.process, instance=daemon.instance))
        unusable = replace(other.entry(), lease=str(tmp_path / "nothing" / "a.lease"))
        with pytest.raises(InvalidInput, match=f"{other.instance}: its words cannot be opened"):
            keeper.apply(protocol.Table((successor, unusable)))
        daemon.end()
        await until(lambda: daemon.process in died(floor), "the death of what it had is still seen")
        await until(lambda: not keeper.registry.held(), "and taken out of discovery")

    run(tmp_path, case)
