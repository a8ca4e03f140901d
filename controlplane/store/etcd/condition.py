"""How an etcd cluster is: what each member says of itself, asked all at once."""

from __future__ import annotations

import asyncio

from controlplane.errors import HftctlError, Unavailable
from controlplane.store.base import Condition, Member
from controlplane.store.etcd.calls import Attempt, Calls, Endpoint
from controlplane.store.etcd.rpc import etcd_pb2 as rpc


async def look(calls: Calls) -> Condition:
    """Raises Unavailable: no member answers. Denied: user or password."""
    await calls.authenticated()
    told = await asyncio.gather(*(_status(calls, endpoint) for endpoint in calls.endpoints))
    said = {each.response.header.member_id: each.response for each in told if each.error is None}
    if not said:
        raise Unavailable("; ".join(str(each.error) for each in told))
    furthest = max(each.raft_index for each in said.values())
    leader = next((each.leader for each in said.values() if each.leader), 0)
    members = [
        Member(
            endpoint.address,
            each.error is None,
            each.error is None and each.response.header.member_id == leader,
            each.response.version if each.error is None else "",
            furthest - each.response.raft_index if each.error is None else 0,
            "" if each.error is None else str(each.error),
        )
        for endpoint, each in zip(calls.endpoints, told, strict=True)
    ]
    faults = sorted({text for each in said.values() for text in each.errors})
    return Condition(
        tuple(members),
        await _size(calls, len(members)),
        max(each.raft_term for each in said.values()),
        max(each.db_size for each in said.values()),
        max(each.db_size_quota for each in said.values()) or None,
        tuple(faults),
    )


async def _status(calls: Calls, endpoint: Endpoint) -> Attempt:
    return await calls.attempt(endpoint, "Status", rpc.StatusRequest(), calls.settings.try_s, leader=False)


async def _size(calls: Calls, endpoints: int) -> int:
    """Voting members, as the cluster has them; where we may not ask (from 3.6.9 only root may), the endpoints
    that we know.
    """
    try:
        answer = await calls.unary("MemberList", rpc.MemberListRequest())
    except HftctlError:
        return endpoints
    return sum(not member.is_learner for member in answer.members) or endpoints
