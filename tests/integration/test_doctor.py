"""`hftctl doctor` on a real floor, and on what is left of one."""

from __future__ import annotations

import json
from typing import Any

from tests.support import floors, servers


def findings(floor: floors.Floor, *words: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = floor.run("doctor", *words, "-o", "json")
    rows: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(done.stdout)["findings"]:
        rows.setdefault(each["id"], []).append(each)
    return done.returncode, rows


def test_a_floor_is_examined_while_it_runs_and_after_its_parent_has_died() -> None:
    with floors.floor(environment={"HFT_ETCD": str(servers.etcd())}) as floor:
        code, found = findings(floor)
        assert code == 0, found
        for id in (
            "store.answers",
            "store.writes",
            "lease.budget",
            "host.one_agent",
            "host.clock",
            "folder.modes",
        ):
            assert {each["severity"] for each in found[id]} <= {"ok", "warning"}, found[id]
        assert {each["subject"] for each in found["host.one_agent"]} == {"alpha", "beta"}
        assert found["store.members.count"][0]["severity"] == "info"
        code, strict = findings(floor, "--production")
        assert code == 1 and strict["store.members.count"][0]["severity"] == "critical"

        done = floor.run("doctor", "--production")
        assert done.returncode == 1 and "worst: critical" in done.stdout
        assert done.stdout.splitlines()[0].startswith("critical  store.members.count")

        (floor.site_dir / "data").chmod(0o755)
        floor.site_dir.chmod(0o755)
        code, found = findings(floor)
        (modes,) = [each for each in found["folder.modes"] if each["subject"] == str(floor.site_dir)]
        assert code == 1 and modes["remedy"] == f"chmod -R go= {floor.site_dir}"
        floor.site_dir.chmod(0o700)

        floor.kill(floor.parent()["floord"]["pid"])
        code, found = findings(floor)
        assert code == 0 and "hftctl up" in found["floor.orphans"][0]["remedy"]


def test_without_a_floor_the_machine_is_examined_and_a_dead_store_is_said() -> None:
    with floors.floor(bring_up=False) as floor:
        code, found = findings(floor)
        assert code == 0 and found["store.answers"][0]["severity"] == "info"
        floor.environment["HFT_STORE_ENDPOINTS"] = "consul://127.0.0.1:1"
        code, found = findings(floor)
        (answers,) = found["store.answers"]
        assert code == 1 and answers["severity"] == "critical" and "127.0.0.1:1" in answers["subject"]
        floor.environment["HFT_STORE_ENDPOINTS"] = "rubbish"
        done = floor.run("doctor")
        assert done.returncode == 2 and "wanted HOST:PORT" in done.stderr
