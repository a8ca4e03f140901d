"""What Consul is answered about an instance: a warning leaves it in service, which 503 would not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agents.http.instance_routes import InstanceRoutes
from controlplane.model.observed import InstanceStatus


@pytest.mark.parametrize(
    ("health", "status"), [("passing", 200), ("warning", 429), ("critical", 503), ("odd", 503)]
)
def test_each_state_has_the_code_that_consul_takes_for_it(health: str, status: int) -> None:
    observed = InstanceStatus(
        id="a-1", service="a", daemon="a", host="h", pid=7, state="running", role="leader", phase="active",
        epoch=1, health=health, reason="why", ready=True, started_ns=None, restarts=0, cpus=(), sched="other",
        endpoints={}, version="1", config_revision=1,
    )  # fmt: skip
    instances = SimpleNamespace(observe=lambda name: observed, lease_page=lambda name: None)
    agent: Any = SimpleNamespace(instances=instances, board=SimpleNamespace(rows=lambda name: []))
    routes = InstanceRoutes(agent, None)  # type: ignore[arg-type]
    request: Any = SimpleNamespace(path_params={"id": "a-1"}, scope={})
    answer = asyncio.run(routes.health(request))
    assert answer.status_code == status and b'"reason":"why"' in answer.body
