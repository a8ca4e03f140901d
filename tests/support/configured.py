"""A service with a small daemon of its own, for tests that change its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from controlplane import model
from controlplane.errors import InvalidSettings
from controlplane.model import Mode, ServiceSpec
from controlplane.model.specs import DaemonKind
from controlplane.operations import config_change
from controlplane.site import nouns
from controlplane.site.view import SiteView
from controlplane.specs import settings_check
from controlplane.store import Keys, Store


@dataclass(frozen=True, slots=True)
class Breaker:
    failures: int = 5
    open_s: float = 1.0


@dataclass(frozen=True, slots=True)
class RiskSettings:
    max_position: str = "1000"
    messages_per_s: int = 200
    burst: int = 400
    markets: tuple[str, ...] = ("spot", "usdm")
    side: Literal["both", "buy"] = "both"
    breaker: Breaker = field(default_factory=Breaker)
    folder: str = field(default="riskd", metadata={"restart": True})
    tops: str = field(default="bookd", metadata={"service": "bookd"})

    def __post_init__(self) -> None:
        if self.burst < self.messages_per_s:
            raise InvalidSettings(f"riskd.burst {self.burst}: must be at least messages_per_s")


RISKD = DaemonKind("riskd", RiskSettings, frozenset({Mode.ACTIVE_STANDBY}), "hftd.daemons.riskd", live=True)
KINDS: Mapping[str, DaemonKind] = {"riskd": RISKD}


def spec(name: str = "riskd", **settings: Any) -> ServiceSpec:
    complete = settings_check.check(RISKD, settings, name)
    restart = settings_check.restart_fields(RISKD)
    return ServiceSpec(
        name, "riskd", Mode.ACTIVE_STANDBY, ("alpha", "beta"), settings=complete, restart=restart
    )


async def put_spec(store: Store, keys: Keys, **settings: Any) -> ServiceSpec:
    made = spec(**settings)
    await store.put(keys.spec(made.name), model.encode(made))
    return made


async def view(store: Store, keys: Keys) -> SiteView:
    return nouns.view_of(keys, await store.range(keys.root))


async def change(store: Store, keys: Keys) -> config_change.ConfigChange:
    """As an agent has it, of the site as it is now."""
    seen = await view(store, keys)
    return config_change.ConfigChange(store, keys, lambda: seen, lambda: KINDS)


def asked(**given: Any) -> config_change.ConfigRequest:
    kind = "set" if "set" in given else "rollback" if "to" in given else "apply"
    return config_change.ConfigRequest(
        **{"kind": kind, "reason": "a test", "actor": "ann", "service": "riskd", **given}
    )
