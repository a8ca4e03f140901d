"""The agent's HTTP, on its unix socket and on TCP: health for checks, metrics, and the whole site for
`hftctl`, all from memory.

The routes of design section 10 (host_routes.py, instance_routes.py) and those under /v1/site, which any agent
answers for the whole site (site_routes.py). Over TCP only what checks and Prometheus call is answered; logs,
events, what daemons say, and whatever changes something, over the unix socket alone (docs/security.md). What
only another host knows (a log, a daemon's answer, its events) is fetched from that host's agent
(other_hosts.py). Nothing here asks the store, save a failover, an override of a breaker, a change of
configuration, what concerns fences, and registrations by hand.
"""

from __future__ import annotations

from starlette.types import ASGIApp

from agents.agent import Agent
from agents.http import (
    breaker_routes,
    config_routes,
    fence_routes,
    host_routes,
    instance_routes,
    registration_routes,
    site_routes,
)
from agents.http.other_hosts import OtherHosts
from controlplane.http import answers
from controlplane.operations import failover
from controlplane.store import Keys, Store


def application(agent: Agent, failovers: failover.Failovers, store: Store, keys: Keys) -> ASGIApp:
    others = OtherHosts(agent)
    fences = fence_routes.FenceRoutes(agent, others, store, keys)
    registrations = registration_routes.RegistrationRoutes(agent, store, keys)
    breakers = breaker_routes.BreakerRoutes(agent, store, keys)
    config = config_routes.ConfigRoutes(agent, store, keys)
    host, instances = host_routes.HostRoutes(agent), instance_routes.InstanceRoutes(agent, others)
    site = site_routes.SiteRoutes(agent, others, failovers)
    return answers.by_door(
        [*host.to_everybody(), *instances.to_everybody()],
        [
            *host.to_the_owner(),
            *instances.to_the_owner(),
            *site.to_the_owner(),
            *fences.to_the_owner(),
            *registrations.to_the_owner(),
            *breakers.to_the_owner(),
            *config.to_the_owner(),
        ],
    )
