"""`hftctl register`, `deregister` and `maint` on a real floor, on each store: what they refuse, what stands
after them in the registry, in Consul's own catalogue and DNS, and who is named for it.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from controlplane import store
from controlplane.floor import folders
from tests.support import checks, consul_servers, dns, floors

pytestmark = pytest.mark.timeout(300)
DNS_PORT, UI_PORT, VENDOR_PORT = checks.free_ports(3)


@pytest.fixture(scope="module", params=["etcd", "consul"])
def floor(request: pytest.FixtureRequest) -> Iterator[floors.Floor]:
    words = ["--store", request.param]
    environment = {}
    if request.param == "consul":
        words += ["--consul-dns", str(DNS_PORT), "--consul-ui", str(UI_PORT)]
        environment = {"HFT_CONSUL": str(consul_servers.consul())}
    with floors.floor(*words, environment=environment, without=("HFT_TEST_STORE",)) as one:
        yield one


def on_consul(floor: floors.Floor) -> bool:
    return bool(floor.status()["store"]["kind"] == "consul")


def rows(floor: floors.Floor, service: str) -> list[dict[str, object]]:
    done = floor.run("endpoints", service, "-o", "json")
    return json.loads(done.stdout) if done.returncode == 0 else []


def key(floor: floors.Floor, name: str) -> dict[str, object]:
    async def read() -> dict[str, object]:
        client = store.connect(str(folders.Folders(floor.site_dir).store_url()))
        entry = await client.get(name)
        await client.close()
        return json.loads(entry.value) if entry else {}

    return asyncio.run(read())


def test_a_service_by_hand_is_found_until_it_is_taken_out(floor: floors.Floor) -> None:
    done = floor.run(
        "register", "vendor", "--address", "127.0.0.1", "--port", str(VENDOR_PORT), "--tag", "fix", "--meta",
        "desk=rates", "--weight", "3", "--zone", "rack-7", "--reason", "new bank",
    )  # fmt: skip
    assert done.returncode == 0 and "succeeded" in done.stdout, done.stderr
    (row,) = floors.wait_for("it is shown", lambda: rows(floor, "vendor"))
    assert row["instance"] == f"vendor-127.0.0.1-{VENDOR_PORT}" and row["health"] == "passing"
    assert (row["address"], row["port"], row["zone"], row["weight"]) == (
        "127.0.0.1",
        VENDOR_PORT,
        "rack-7",
        3,
    )
    assert "fix" in row["tags"] and row["meta"] == {"desk": "rates"}  # type: ignore[operator]
    operation = next(op for op in floor.status()["operations"] if op["kind"] == "register")
    assert (operation["actor"], operation["reason"], operation["state"]) == (
        getpass.getuser(), "new bank", "succeeded",
    )  # fmt: skip
    if on_consul(floor):
        floors.wait_for("DNS names it", lambda: dns.service(DNS_PORT, "vendor.service.consul"))
        (found,) = dns.service(DNS_PORT, "fix.vendor.service.consul")
        assert (found.port, found.weight) == (VENDOR_PORT, 3)
        assert [each.port for each in dns.service(DNS_PORT, "execd.service.consul")], "and the floor's own"
    else:
        said = key(floor, f"hft/lab/services/vendor/vendor-127.0.0.1-{VENDOR_PORT}")
        assert (said["address"], said["port"]) == ("127.0.0.1", VENDOR_PORT)
        assert abs(float(str(said["timestamp"])) - time.time()) < 600

    assert floor.run("maint", "vendor", "--reason", "down for a day").returncode == 0
    floors.wait_for("in maintenance", lambda: rows(floor, "vendor")[0]["maintenance"] == "down for a day")
    if on_consul(floor):
        floors.wait_for("out of DNS", lambda: not dns.service(DNS_PORT, "vendor.service.consul"))
    assert floor.run("maint", "vendor", "--off").returncode == 0
    floors.wait_for("back in service", lambda: rows(floor, "vendor")[0]["maintenance"] == "")

    name = f"vendor-127.0.0.1-{VENDOR_PORT}"
    assert floor.run("deregister", name).returncode == 0
    floors.wait_for("gone", lambda: not rows(floor, "vendor"))
    done = floor.run("deregister", name)
    assert done.returncode == 2 and "not registered" in done.stderr


def test_maintenance_of_an_instance_of_ours_outlives_its_process(floor: floors.Floor) -> None:
    (name,) = [each["id"] for each in floor.service("auditd")["instances"]]
    assert floor.run("maint", name, "--reason", "new disk").returncode == 0

    def shown() -> bool:
        row = floor.instance(name)
        return bool(row["maintenance"] == "new disk" and "in maintenance: new disk" in row["reason"])

    floors.wait_for("shown", shown)
    before = floor.instance(name)["pid"]
    os.kill(before, signal.SIGKILL)
    floors.wait_for("a new process", lambda: floor.instance(name)["pid"] not in (None, before))
    floors.wait_for("still in maintenance", shown)
    if on_consul(floor):
        floors.wait_for("out of DNS", lambda: not dns.service(DNS_PORT, "auditd.service.consul"))
    assert floor.run("maint", "auditd", "--off").returncode == 0
    floors.wait_for("over", lambda: floor.instance(name)["maintenance"] == "")
    if on_consul(floor):
        floors.wait_for("in DNS again", lambda: dns.service(DNS_PORT, "auditd.service.consul"))


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("register", "omsd", "--address", "10.0.0.1", "--port", "1"), 2, "service of this floor"),
        (("register", "a/b", "--address", "10.0.0.1", "--port", "1"), 2, "service"),
        (("register", "vendor", "--address", "10.0.0.1", "--port", "1", "--meta", "x"), 2, "NAME=VALUE"),
        (("register", "vendor", "--address", "h", "--port", "1", "--check-http", "ftp://x"), 2, "check"),
        (("deregister", "nosuch-1"), 2, "not registered"),
        (("maint", "nosuch", "--reason", "x"), 2, "neither a service nor an instance"),
        (("maint", "omsd"), 2, "--reason TEXT, or --off"),
        (("maint", "omsd", "--off", "--reason", "x"), 2, "--reason TEXT, or --off"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    floor: floors.Floor, words: tuple[str, ...], code: int, why: str
) -> None:
    done = floor.run(*words)
    assert done.returncode == code and why in done.stderr, (done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_a_keeper_holds_is_not_taken_out_by_hand(floor: floors.Floor) -> None:
    (name,) = [each["id"] for each in floor.service("auditd")["instances"]]
    done = floor.run("deregister", name)
    assert done.returncode == 1 and "registered by pid" in done.stdout, (done.stdout, done.stderr)
