"""Who answers a verb that reads: an agent of the floor on this machine; where no floor runs here and the
environment names a store (HFT_STORE_ENDPOINTS), that store, as far as it alone can (store_site.py). A verb
that an agent has to answer says there which hosts have one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from controlplane.cli import agent_client
from controlplane.errors import FloorUnreachable

if TYPE_CHECKING:
    from controlplane.site import document

T = TypeVar("T")
ENDPOINTS = "HFT_STORE_ENDPOINTS"
"""As store/existing.py has it, which a verb that asks an agent does not import."""


class Source(Protocol):
    """An agent, or a store: both answer with the same rows."""

    def status(self) -> document.StatusDocument: ...

    def history(self, service: str) -> Any:
        """Rows of changes of leader. Raises InvalidInput: no such service."""

    def endpoints(self, service: str) -> Any:
        """Rows of who serves it. Raises InvalidInput: no such service."""

    def operations(self) -> Any:
        """All of them, oldest first."""


def ask(site_dir: Path | None, timeout_s: float, site: str, question: Callable[[Source], T]) -> T:
    """`site`: which one is looked up in a store (agents know their own).

    Raises:
        FloorUnreachable: no agent answers; or no floor runs here, and no store is named or it does not say.
    """
    try:
        floor = agent_client.Floor(site_dir, timeout_s)
    except agent_client.NoFloor:
        if not os.environ.get(ENDPOINTS):
            raise
        from controlplane.cli import store_site  # with a client of it, 200 ms

        return question(store_site.of_environment(site, timeout_s))
    return question(floor)


def floor(site_dir: Path | None, timeout_s: float) -> agent_client.Floor:
    """For what an agent has to answer or to do.

    Raises:
        FloorUnreachable: none runs here; with the hosts that have an agent, where a store is named.
    """
    try:
        return agent_client.Floor(site_dir, timeout_s)
    except agent_client.NoFloor as exc:
        raise elsewhere(exc) from exc


def elsewhere(exc: FloorUnreachable) -> FloorUnreachable:
    """The same, with where to run the verb, if no floor runs here and the environment names a store."""
    if not isinstance(exc, agent_client.NoFloor) or not os.environ.get(ENDPOINTS):
        return exc
    from controlplane.cli import store_site

    return FloorUnreachable(f"{exc}; an agent has to answer this, over its socket: {store_site.where()}")
