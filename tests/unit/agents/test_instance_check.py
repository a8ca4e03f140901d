"""What Consul is answered about an instance: a warning leaves it in service, which 503 would not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from agents.http.instance_routes import InstanceRoutes


@pytest.mark.parametrize(
    ("health", "status"), [("passing", 200), ("warning", 429), ("critical", 503), ("odd", 503)]
)
def test_each_state_has_the_code_that_consul_takes_for_it(health: str, status: int) -> None:
    observed = SimpleNamespace(
        id="a-1", health=health, ready=True, role="leader", phase="active", epoch=1, reason="why"
    )
    instances = SimpleNamespace(observe=lambda name: observed, lease_page=lambda name: None)
    routes = InstanceRoutes(SimpleNamespace(instances=instances), None)  # type: ignore[arg-type]
    request: Any = SimpleNamespace(path_params={"id": "a-1"})
    answer = asyncio.run(routes.health(request))
    assert answer.status_code == status and b'"reason":"why"' in answer.body
