"""A damaged record in the store is named and harms only itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane import store
from controlplane.errors import Unavailable
from controlplane.floor import up
from controlplane.floor.folders import Folders
from tests.support import floors

KEYS = store.Keys("lab")


def in_store(floor: floors.Floor, do: Callable[[store.Store], Coroutine[Any, Any, Any]]) -> Any:
    url = Folders(floor.site_dir).store_url()
    assert url is not None

    async def run() -> Any:
        client = store.connect(url)
        try:
            return await do(client)
        finally:
            await client.close()

    for again in (True, True, True, False):
        with contextlib.suppress(Unavailable) if again else contextlib.nullcontext():
            return asyncio.run(run())
    raise AssertionError("unreachable")


@pytest.mark.parametrize("rubbish", [b"not a number", b"\xff\x00", b"9" * 4400])
def test_hft_floord_comes_up_over_a_damaged_incarnation_and_epoch_and_names_both(rubbish: bytes) -> None:
    with floors.floor() as floor:
        floord = floor.parent()["floord"]["pid"]
        floor.kill(floord)
        floors.wait_for("it is gone", lambda: not Path(f"/proc/{floord}").exists())
        in_store(floor, lambda client: client.put(KEYS.incarnation, rubbish))
        in_store(floor, lambda client: client.put(KEYS.epoch("riskd"), rubbish))
        floor.up()

        def log() -> str:
            return (floor.site_dir / "logs" / "floord.log").read_text()

        for key in (KEYS.incarnation, KEYS.epoch("riskd")):
            named = f"{key} in the store does not decode and is left out"
            floors.wait_for(named, lambda named=named: named in log())
        assert "Traceback" not in log() and "taking the floor down" not in log()
        floors.wait_for(
            "the incarnation is replaced",
            lambda: in_store(floor, lambda client: client.get(KEYS.incarnation)).value != rubbish,
        )
        assert floor.parent()["floord"]["pid"] != floord
        floors.wait_for("omsd is led", lambda: floor.service("omsd")["leader"])


# --- a floor that trades ------------------------------------------------------------------------------------

RUBBISH = {
    "nothing": b"",
    "no text": b"\xff\x00",
    "too deep": b"[" * 50_000,
    "too long a number": b"9" * 4400,
    "out of every range": b'{"epoch": -1, "incarnation": 18446744073709551615, "port": 99999}',
}
LEASE_S = 1.5
STEADY_S = 4 * LEASE_S


@pytest.fixture(scope="module")
def floor() -> Iterator[floors.Floor]:
    with floors.floor() as one:
        yield one


def steady(floor: floors.Floor) -> tuple[dict[str, int], dict[str, tuple[str, int]]]:
    """Who runs and who leads in which epoch: what no record may change."""
    led = {s["name"]: (s["leader"], s["epoch"]) for s in floor.status()["services"] if s["leader"]}
    return floor.pids(), led


def all_keys(floor: floors.Floor) -> dict[str, bytes]:
    entries = in_store(floor, lambda client: client.range(KEYS.root)).entries
    return {key: entry.value for key, entry in entries.items()}


@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_under_every_key_stops_no_process_moves_no_leader_and_is_named(
    floor: floors.Floor, rubbish: bytes
) -> None:
    before, records = steady(floor), all_keys(floor)
    around = floor.parent()["processes"]
    for key in records:
        in_store(floor, lambda client, key=key: client.put(key, rubbish))
    services = {key.removeprefix(KEYS.specs) for key in records if key.startswith(KEYS.specs)}
    floors.wait_for(
        "each damaged spec makes the site unhealthy",
        lambda: services == {r.partition(": its spec does not decode")[0] for r in floor.status()["reasons"]},
    )
    time.sleep(STEADY_S)
    assert steady(floor) == before
    assert floor.parent()["processes"] == around, "the store, the agents, the controller"
    alarm = next(a for a in floor.status()["alarms"] if a["id"] == "store.undecodable")
    assert "records that do not decode: " in alarm["text"]
    assert floor.trades()
    still = {key for key, value in all_keys(floor).items() if value == rubbish}
    written_again = ("/hosts/", "/services/", "/leader", "/controller")
    assert not [key for key in still if any(part in key for part in written_again)], "their owners mend these"
    for key in still:
        in_store(floor, lambda client, key=key: client.put(key, records[key]))
    floors.wait_for("all is well again", floor.healthy)
    assert steady(floor) == before


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]"], ids=["gone", "empty", "cut", "another"])
def test_a_floor_json_that_is_damaged_while_the_floor_runs_is_written_again(
    floor: floors.Floor, content: bytes | None
) -> None:
    path = Folders(floor.site_dir).floor_json
    before, good = steady(floor), path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    floors.wait_for("it is whole again", lambda: path.exists() and path.read_bytes() == good)
    assert steady(floor) == before and floor.healthy()


def test_a_failover_works_over_a_damaged_request_epoch_and_electable(floor: floors.Floor) -> None:
    before = floor.service("omsd")
    for key in (KEYS.request("omsd"), KEYS.epoch("omsd"), KEYS.electable("omsd")):
        in_store(floor, lambda client, key=key: client.put(key, b"?"))
    done = floor.json("failover", "omsd", "--reason", "drill over damaged records")
    assert done["outcome"] == "succeeded", done
    after = floors.wait_for("healthy again", lambda: floor.healthy() and floor.service("omsd"))
    assert after["leader"] != before["leader"] and after["epoch"] == before["epoch"] + 1


def test_specs_that_are_all_deleted_stop_nothing_not_even_under_a_new_agent(floor: floors.Floor) -> None:
    before, records = steady(floor), all_keys(floor)
    services = {key.removeprefix(KEYS.specs) for key in records if key.startswith(KEYS.specs)}
    for service in services:
        in_store(floor, lambda client, service=service: client.delete(KEYS.spec(service)))
    floors.wait_for(
        "each is a reason",
        lambda: services == {r.partition(": no spec of it")[0] for r in floor.status()["reasons"]},
    )
    agent = floor.holder("alpha", "agent")
    floor.kill(agent)
    floors.wait_for("a new agent", lambda: floor.holder("alpha", "agent") not in (0, agent))
    time.sleep(STEADY_S)
    assert steady(floor) == before and floor.trades()
    assert floor.run("status").returncode == 1
    applied = floor.run(
        "apply", "--file", str(up.default_services("lab")), "--reason", "write the specs again", "--yes"
    )
    assert applied.returncode == 0, applied.stderr
    floors.wait_for("all is well again", floor.healthy)
    assert steady(floor) == before


def test_a_service_whose_spec_is_gone_ends_when_an_apply_leaves_it_out(
    floor: floors.Floor, tmp_path: Path
) -> None:
    services = yaml.safe_load(up.default_services("lab").read_text())
    services["services"] = [one for one in services["services"] if one["name"] != "strategy-mm"]
    in_store(floor, lambda client: client.delete(KEYS.spec("strategy-mm")))
    floors.wait_for("it is missed", lambda: floor.status()["reasons"])
    changed = tmp_path / "services.yml"
    changed.write_text(yaml.safe_dump(services))
    shown = floor.run("diff", "--file", str(changed))
    assert "- strategy-mm" in shown.stdout, shown.stdout + shown.stderr
    applied = floor.run("apply", "--file", str(changed), "--reason", "no quotes in this drill", "--yes")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    floors.wait_for("it is stopped", lambda: not [i for i in floor.pids() if i.startswith("strategy-mm")])
    floors.wait_for("all is well", floor.healthy)
