"""The site's events, as any agent tells them: its own and the other hosts', in one line with one cursor.

An agent that is away delays nobody for long and loses nothing: the cursor keeps the reader's place in its
events until it is back. What the order and the cursor promise: controlplane/site/event_stream.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from starlette.requests import Request

from agents import settings
from agents.agent import Agent
from agents.http.host_routes import AFTER_START, EVENTS_MAX
from agents.http.other_hosts import OtherHosts
from controlplane import model
from controlplane.errors import InvalidInput, Retryable
from controlplane.http import answers
from controlplane.site import event_stream, look
from controlplane.site.event_stream import Position, Row

TIMEOUT_S = 1.0
"""Of another host's events: a slow agent delays them for everybody who looks."""
LIMIT = 100


class SiteEvents:
    def __init__(self, agent: Agent, others: OtherHosts) -> None:
        self._agent, self._others = agent, others

    async def told(self, request: Request) -> list[Row]:
        """What the reader does not have, oldest first; the last ones for one that has nothing.

        Raises InvalidInput: `after` is not a cursor.
        """
        limit = min(answers.number(request, "limit", LIMIT), EVENTS_MAX)
        places = self._places(request)
        own = msgspec.to_builtins(self._own(places, limit))
        hosts = self._others.names()
        asked = (self._events_of(host, places, limit) for host in hosts)
        parts = {self._agent.given.host: own, **dict(zip(hosts, await asyncio.gather(*asked), strict=True))}
        return page(parts, places, limit, self._agent.clock.wall_ns())

    def _places(self, request: Request) -> dict[str, Position] | None:
        """None: the reader has nothing."""
        after = request.query_params.get("after", "")
        if not after or after == "0":
            return None
        host = self._agent.given.host
        if not after.isdecimal():
            return event_stream.positions(after)
        number = answers.number(request, "after", 0)
        if self._others.names():
            raise InvalidInput(
                f"after={number}: a number counts the events of one host, and this site has several: ask "
                "with the `cursor` of the last event that you have"
            )
        found = self._agent.events.after(number, 1)
        return {host: Position(found[0].run, found[0].n - 1) if found else self._agent.events.position}

    def _own(self, places: Mapping[str, Position] | None, limit: int) -> Sequence[object]:
        events, host = self._agent.events, self._agent.given.host
        if places is None:
            return events.latest(limit)
        return events.behind(places[host], limit) if host in places else events.of_this_run(limit)

    async def _events_of(self, host: str, places: Mapping[str, Position] | None, limit: int) -> list[Row]:
        place = places.get(host) if places is not None else None
        after = (
            f"after={place.n}&run={place.run}" if place else f"after={AFTER_START}" if places else "after=0"
        )
        try:
            answer = await self._others.fetch(host, f"/v1/events?{after}&limit={limit}", timeout_s=TIMEOUT_S)
            found: list[Row] = model.decode(list[Row], answer.body)
        except (Retryable, msgspec.DecodeError):
            return []  # its agent is away: what it knows is told when it is back
        return found


def page(
    parts: Mapping[str, Sequence[Row]], places: Mapping[str, Position] | None, limit: int, now_ns: int
) -> list[Row]:
    """One answer: at most `limit` of the hosts' rows as the reader gets them, each with the cursor behind it.
    Pure.
    """
    since_ns = now_ns - int(settings.EVENT_SETTLE_S * 1e9)
    counts = {host: event_stream.settled(rows, since_ns, now_ns) for host, rows in parts.items()}
    settled = {host: rows[: counts[host]] for host, rows in parts.items()}
    reached = dict(places or {})
    if places is None:  # what waits is news to this reader, what is older than the page is not
        waiting = {host: rows[counts[host]] for host, rows in parts.items() if counts[host] < len(rows)}
        reached = {host: event_stream.before(row) for host, row in waiting.items()}
    told = []
    for host, row in event_stream.ordered(settled):
        reached[host] = event_stream.of(row)
        told.append(
            {
                "n": row["n"],
                "at": look.iso(event_stream.time_ns(row)),
                "host": row["host"],
                "kind": row["kind"],
                "fields": row["fields"],
                "cursor": event_stream.cursor(reached),
            }
        )
    return told[:limit] if places is not None else told[-limit:]
