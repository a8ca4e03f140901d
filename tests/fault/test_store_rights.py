"""A whole floor with no more rights at its store than docs/operations.md names: it comes up, hands over, is
backed up and goes down; another site is closed to it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from controlplane.errors import Denied
from tests.support import floors, guarded_stores
from tests.support.floors import wait_for

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
ON_CONSUL = """\
    key_prefix "hft/SITE/" { policy = "write" }
    key "hft/" { policy = "read" }
    session_prefix "" { policy = "write" }
    service_prefix "" { policy = "write" }
    node_prefix "" { policy = "read" }
"""
ON_ETCD = """\
    etcdctl role grant-permission ROLE readwrite --prefix hft/SITE/
    etcdctl role grant-permission ROLE read hft/
"""
"""What guarded_stores.with_identities gives etcd's user."""


async def denied(identities: guarded_stores.Identities) -> bool:
    client = identities.real.connect(settings=identities.settings)
    try:
        await client.put("hft/other/specs/omsd", b"")
    except Denied:
        return True
    finally:
        await client.close()
    return False


def test_a_floor_lives_by_the_rights_that_the_docs_name_and_has_no_others(kind: str, tmp_path: Path) -> None:
    text = OPERATIONS.read_text()
    assert ON_CONSUL in text and ON_ETCD in text
    rules = ON_CONSUL.replace("SITE", "lab")
    limited = guarded_stores.with_identities(kind, tmp_path, etcd_prefix="hft/lab/", consul_rules=rules)
    with limited as identities, floors.floor(bring_up=False, without=["HFT_TEST_STORE"]) as floor:
        secret = identities.secret_file
        secret.chmod(0o600)
        words = ["--store-endpoints", identities.real.url()]
        words += (
            ["--store-user", "hft", "--store-password", str(secret)]
            if kind == "etcd"
            else ["--store-token", str(secret)]
        )
        floor.up(*words)
        moved = floor.json("failover", "omsd", "--reason", "drill")
        assert moved["outcome"] == "succeeded", moved
        wait_for("healthy again", floor.healthy)
        (leader,) = [i for i in floor.service("omsd")["instances"] if i["role"] == "leader"]
        floor.kill(leader["pid"])
        wait_for("another leads", lambda: floor.service("omsd")["leader"] not in (None, leader["id"]))
        wait_for("healthy again", floor.healthy)
        assert {row["health"] for row in floor.json("endpoints", "omsd")} == {"passing"}
        for words in (["--reason", "look"], ["--off"]):
            done = floor.run("maint", leader["id"], *words)
            assert done.returncode == 0, done.stderr
        assert floor.run("backup", str(tmp_path / "site.backup")).returncode == 0
        status = floor.status()
        assert status["alarms"] == [], status["alarms"]
        assert not [each for each in floor.json("events", "-n", "1000") if "denied" in str(each).lower()]
        done = floor.run("down")
        assert done.returncode == 0 and not floors.processes_of(floor.site_dir), done.stderr
        assert asyncio.run(denied(identities))
