"""The verbs on a machine without a floor, over a store that is there already: those that the store alone can
answer show what an agent shows; `apply` and `diff` work; the others say on which host to run them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import floors, secured_stores
from tests.support.floors import wait_for

SERVICES = (Path(__file__).resolve().parents[2] / "inventory/lab/services.yml").read_text()
RISKD = """\
  - name: riskd
    daemon: riskd
    mode: active_standby
    hosts: [alpha]
    sched: fifo
"""
CHANGED = SERVICES.replace(RISKD, f"{RISKD}    settings: {{messages_per_s: 300}}\n")
NEEDS_AN_AGENT = (
    "failover omsd --reason why",
    "events",
    "health",
    "logs omsd-alpha-1",
    "op watch",
    "breaker open venue --reason why",
    "orders",
    "maint omsd-alpha-1 --reason why",
)


@pytest.fixture(scope="module", params=["etcd", "consul"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[floors.Floor, floors.Floor]]:
    """A floor on a store that is there already, and another machine: a site folder in which nothing runs, and
    the store in its environment.
    """
    folder = tmp_path_factory.mktemp("store")
    with (
        secured_stores.secured(request.param, folder) as there,
        floors.floor(bring_up=False) as floor,
        floors.floor(bring_up=False) as far,
    ):
        floor.up(*there.words())
        far.environment |= there.environment
        moved = floor.json("failover", "omsd", "--reason", "drill")
        assert moved["outcome"] == "succeeded", moved
        wait_for("healthy again", floor.healthy)
        yield floor, far


def test_each_reading_verb_shows_what_an_agent_shows(both: tuple[floors.Floor, floors.Floor]) -> None:
    floor, far = both

    def same(*words: str, keys: tuple[str, ...] = ()) -> Any:
        def pick(found: Any) -> Any:
            return [{key: row[key] for key in keys} for row in found] if keys else found

        def shown() -> Any:
            here, there = pick(floor.json(*words)), pick(far.json(*words))
            return (here,) if here == there else None

        return wait_for(f"the same by {' '.join(words)}", shown)[0]  # what an agent knows is a second fresher

    history = same("history", "omsd")
    assert [row["cause"] for row in history] == ["first", "failover"]
    services = same("services", keys=("name", "desired", "running", "leader", "epoch"))
    (omsd,) = [row for row in services if row["name"] == "omsd"]
    assert len(services) == 9 and omsd["epoch"] == 2
    rows = same("endpoints", "omsd")
    assert {row["role"] for row in rows} == {"leader", "standby"} and len(rows) == 2
    hosts = same("host", "list", keys=("name", "state", "address", "url", "instances"))
    assert [row["state"] for row in hosts] == ["up", "up"]
    operations = same("op", "list")
    assert {"apply", "failover"} <= {row["kind"] for row in operations}
    (failover,) = [row for row in operations if row["kind"] == "failover"]
    assert same("op", "show", failover["id"])["steps"]
    assert same("breaker", "list", keys=("name", "host", "instance", "state")) is not None
    wait_for("healthy by the store too", lambda: far.status()["healthy"])
    assert far.status()["site"] == "lab"


def test_a_service_or_an_operation_that_there_is_not_is_said_as_an_agent_says_it(
    both: tuple[floors.Floor, floors.Floor],
) -> None:
    floor, far = both
    for words in (("history", "nobody"), ("endpoints", "nobody"), ("op", "show", "nobody")):
        here, there = floor.run(*words), far.run(*words)
        assert (there.returncode, there.stderr) == (here.returncode, here.stderr), words
        assert there.returncode == 2 and "nobody" in there.stderr


def test_what_is_in_maintenance_is_shown_so(both: tuple[floors.Floor, floors.Floor]) -> None:
    floor, far = both
    (auditd,) = far.json("endpoints", "auditd")
    assert auditd["maintenance"] == ""
    assert floor.run("maint", auditd["instance"], "--reason", "new disk").returncode == 0
    wait_for("it is shown", lambda: far.json("endpoints", "auditd")[0]["maintenance"] == "new disk")
    assert floor.run("maint", auditd["instance"], "--off").returncode == 0
    wait_for("and its end", lambda: far.json("endpoints", "auditd")[0]["maintenance"] == "")


def test_a_changed_file_is_compared_applied_and_waited_for(
    both: tuple[floors.Floor, floors.Floor], tmp_path: Path
) -> None:
    floor, far = both
    own, changed, strange = tmp_path / "own.yml", tmp_path / "changed.yml", tmp_path / "strange.yml"
    own.write_text(SERVICES)
    changed.write_text(CHANGED)
    strange.write_text(SERVICES.replace("[alpha]", "[gamma]", 1))
    (tmp_path / "hosts.yml").write_text("all: {hosts: {alpha: , beta: , gamma: }}\n")
    assert far.run("diff", "-f", str(own)).returncode == 0, "as the floor's own up applied it"
    shown = far.run("diff", "-f", str(changed))
    assert shown.returncode == 1 and "messages_per_s" in shown.stdout, shown.stdout + shown.stderr
    refused = far.run("apply", "-f", str(strange), "--yes")
    assert refused.returncode == 2 and "host gamma has no agent in site lab" in refused.stderr
    done = far.run("apply", "-f", str(changed), "--yes", "--reason", "from afar", timeout_s=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert floor.run("diff", "-f", str(changed)).returncode == 0
    assert [row["reason"] for row in far.json("op", "list", "--kind", "apply")][-1] == "from afar"
    assert floor.run("apply", "-f", str(own), "--yes", timeout_s=180).returncode == 0


@pytest.mark.parametrize("line", NEEDS_AN_AGENT)
def test_what_an_agent_has_to_answer_says_on_which_host_to_run_it(
    both: tuple[floors.Floor, floors.Floor], line: str
) -> None:
    _, far = both
    done = far.run(*line.split())
    assert done.returncode == 3 and done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert "run it on a host of site lab: alpha (127.0.0.1), beta (127.0.0.1)" in said, said


def test_a_failover_in_json_says_it_too(both: tuple[floors.Floor, floors.Floor]) -> None:
    _, far = both
    done = far.run("failover", "omsd", "--reason", "why", "-o", "json")
    found = json.loads(done.stdout)
    assert done.returncode == 3 and found["outcome"] == "refused" and "run it on a host" in found["reason"]


def test_another_site_and_a_store_that_is_away_are_one_line(both: tuple[floors.Floor, floors.Floor]) -> None:
    _, far = both
    for verb in ("status", "services", "history omsd", "op list", "host list"):
        done = far.run(*verb.split(), "--site", "other")
        assert done.returncode == 3 and 'there is no site "other" in it' in done.stderr, done.stderr
    kind = far.environment["HFT_STORE_ENDPOINTS"].partition("://")[0]
    before, far.environment["HFT_STORE_ENDPOINTS"] = (
        far.environment["HFT_STORE_ENDPOINTS"],
        f"{kind}://127.0.0.1:1",
    )
    try:
        for verb in ("services", "history omsd", "events"):
            done = far.run(*verb.split())
            (said,) = done.stderr.splitlines()
            assert done.returncode == 3 and "127.0.0.1:1" in said, said
    finally:
        far.environment["HFT_STORE_ENDPOINTS"] = before
