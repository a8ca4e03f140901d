"""How many connections a floor holds at a Consul server, which takes 200 from one address
(`http_max_conns_per_client`): counted by the kernel, of a floor whose two hosts have one address.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

from tests.support import floors, real_stores
from tests.support.floors import wait_for

ESTABLISHED = "01"
BOUND = {"hft-agentd": 40, "hft-keeperd": 26, "hft-controld": 30, "hft-floord": 4}
"""Of one process: its watches, whose number does not grow with what happens (one more for each service and
agent, of Consul's catalogue), and at most http.IDLE_MAX connections that are kept between two calls.
"""
TOTAL_MAX = 130
"""Of the lab's floor; 97 were counted."""


def sockets_to(port: int) -> set[str]:
    """Inodes of the connections of this machine to a port of loopback."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[2].endswith(f":{port:04X}") and words[3] == ESTABLISHED:
            found.add(f"socket:[{words[9]}]")
    return found


def connections(floor: floors.Floor, port: int) -> Counter[str]:
    """By process: `hft-agentd 4711` and so on, by its title."""
    wanted = sockets_to(port)
    counted: Counter[str] = Counter()
    for line in floors.processes_of(floor.site_dir):
        pid, _, command = line.partition(": ")
        with contextlib.suppress(OSError):
            held = sum(str(fd.readlink()) in wanted for fd in Path(f"/proc/{pid}/fd").iterdir())
            if held:
                counted[f"{command.split()[0]} {pid}"] = held
    return counted


def test_a_floor_of_two_hosts_on_one_address_holds_far_fewer_connections_than_consul_takes() -> None:
    with real_stores.running("consul") as real, floors.floor(bring_up=False) as floor:
        port = int(real.server.endpoint.rpartition(":")[2])
        floor.up("--store-endpoints", real.url())
        most: Counter[str] = Counter()

        def look() -> Counter[str]:
            found = connections(floor, port)
            for name, held in found.items():
                most[name] = max(most[name], held)
            return found

        kinds = {"hft-agentd", "hft-keeperd", "hft-controld"}
        wait_for("all have connections", lambda: {name.split()[0] for name in look()} >= kinds)
        assert floor.json("failover", "omsd", "--reason", "drill")["outcome"] == "succeeded"
        for _ in range(20):
            look()
            assert floor.run("status").returncode in (0, 1)
        assert floor.run("backup", str(floor.site_dir / "one.backup")).returncode == 0
        total = sum(look().values())
        for name, held in most.items():
            assert held <= BOUND[name.split()[0]], (name, dict(most))
        assert total <= TOTAL_MAX, dict(most)
        floor.run("down")
        wait_for("none is left", lambda: not connections(floor, port))
