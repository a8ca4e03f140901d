"""How a Consul cluster is: what its servers think of one another (autopilot), and where the token may not ask
that, who they say is their leader.
"""

from __future__ import annotations

import msgspec

from controlplane.errors import Denied, Unavailable
from controlplane.store.base import Condition, Member
from controlplane.store.consul.calls import Calls

HEALTH = frozenset({200, 429, 403})
"""429 is Consul's word for "not healthy" here."""


class _Server(msgspec.Struct, rename="pascal"):
    name: str = ""
    address: str = ""
    serf_status: str = ""
    version: str = ""
    leader: bool = False
    last_term: int = 0
    last_index: int = 0
    healthy: bool = False
    voter: bool = False


class _Autopilot(msgspec.Struct, rename="pascal"):
    healthy: bool = False
    servers: list[_Server] = []


async def look(calls: Calls) -> Condition:
    """Raises Unavailable: no server answers, or what answers is no Consul."""
    try:
        answer = await calls.ask("GET", "operator/autopilot/health", good=HEALTH)
        if answer.status == 403:
            return await _of_status(calls)
        found = msgspec.json.decode(answer.body, type=_Autopilot)
    except (Denied, Unavailable):  # the second too: without a leader it cannot be asked
        return await _of_status(calls)
    except msgspec.DecodeError as exc:
        raise Unavailable(f"store consul: operator/autopilot/health: no answer of a Consul: {exc}") from exc
    furthest = max((server.last_index for server in found.servers), default=0)
    members = [
        Member(
            f"{server.name} {server.address}",
            server.serf_status == "alive",
            server.leader,
            server.version,
            furthest - server.last_index if server.serf_status == "alive" else 0,
            ""
            if server.healthy
            else f"its state is {server.serf_status or 'unknown'}, and it is not healthy",
        )
        for server in found.servers
    ]
    voters = sum(server.voter for server in found.servers)
    term = max((server.last_term for server in found.servers), default=0)
    return Condition(tuple(members), voters or len(members), term)


async def _of_status(calls: Calls) -> Condition:
    """These two need no rights and no leader; of who answers they say nothing."""
    try:
        leader = msgspec.json.decode((await calls.ask("GET", "status/leader")).body, type=str)
        peers = msgspec.json.decode((await calls.ask("GET", "status/peers")).body, type=list[str])
    except msgspec.DecodeError as exc:
        raise Unavailable(f"store consul: status/leader: no answer of a Consul: {exc}") from exc
    reason = "" if leader else "not known while there is no leader"
    members = tuple(Member(peer, bool(leader), peer == leader, reason=reason) for peer in peers)
    return Condition(members, len(peers), 0)
