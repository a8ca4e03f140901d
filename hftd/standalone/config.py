"""`hftd NAME --config FILE`: a daemon without an agent, from a YAML file with the documented sections.

The file is checked as a whole; every mistake is named with file, line and field (exit 2). Its `strategy`
section becomes the daemon's own settings; an explicit endpoint overrides discovery. agent.py takes the
agent's place on the control socket: it keeps the daemon registered in etcd or Consul as `<service>-<pid>` and
tells it who its peers are. A standalone daemon has no keeper, so no lease word: riskd, omsd and execd stay
standby.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from controlplane.errors import InvalidInput, InvalidSettings
from controlplane.model.specs import DaemonKind
from controlplane.specs import schema
from controlplane.store import endpoint
from hftd import catalogue
from hftd.standalone import agent

_INTERVAL = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
LEASE_TTL_S = 10.0
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Service:
    name: str
    version: str = "0.1.0"
    environment: str = "lab"
    """The site: part of every key."""


@dataclass(frozen=True, slots=True)
class Consul:
    address: str
    """Of the host's own agent: HOST:PORT, or unix:/ABSOLUTE/PATH."""
    service_id: str = ""
    """Empty: <service>-<pid>."""
    health_check_interval: str = "10s"
    """Between two of Consul's probes; three must fail before it is critical."""
    health_port: int = 0
    """Of loopback, where they are answered; 0: any free one."""
    token_file: str = ""
    """With Consul's ACL token."""

    @property
    def check_s(self) -> float | None:
        """None: it is no interval."""
        found = _INTERVAL.fullmatch(self.health_check_interval)
        seconds = float(found[1]) * _UNIT_S[found[2]] if found else 0.0
        return seconds if 0.05 <= seconds <= 3600 else None


@dataclass(frozen=True, slots=True)
class Etcd:
    endpoints: tuple[str, ...]
    prefix: str = ""
    """Before every key; empty: hft/<environment>, "/": nothing, as in services/<service>/<instance>."""
    lease_ttl: float = LEASE_TTL_S
    """Seconds that a registration outlives a daemon that was killed; renewed three times in it."""


@dataclass(frozen=True, slots=True)
class MarketData:
    endpoint: str = ""
    topics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Orders:
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class RiskService:
    endpoint: str = ""
    timeout_ms: int = 100


@dataclass(frozen=True, slots=True)
class Zeromq:
    market_data: MarketData = MarketData()
    orders: Orders = Orders()
    risk_service: RiskService = RiskService()


@dataclass(frozen=True, slots=True)
class RiskLimits:
    max_position: int | float | str = 1000
    max_order_size: int | float | str = 100


@dataclass(frozen=True, slots=True)
class Strategy:
    name: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    """Settings of the daemon, by their own names."""
    risk_limits: RiskLimits = RiskLimits()


@dataclass(frozen=True, slots=True)
class Logging:
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written. Warning: alarms of that severity and above, error: critical ones."""
    file: str = ""
    """Empty: standard output."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    prometheus_port: int = 0
    """Acts only under an agent, which answers on a daemon's behalf."""
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StandaloneConfig:
    service: Service
    consul: Consul | None = None
    etcd: Etcd | None = None
    zeromq: Zeromq = Zeromq()
    strategy: Strategy = Strategy()
    logging: Logging = Logging()
    monitoring: Monitoring = Monitoring()


def read(path: Path) -> tuple[StandaloneConfig, Mapping[str, Any]]:
    """The checked file, and its plain content (it tells what was given from what is a default).

    Raises:
        InvalidInput: one line a finding.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{path}: cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        raise InvalidInput(f"{path}: not YAML: {' '.join(str(exc).split())}") from exc
    except RecursionError as exc:  # the parser calls itself for each level
        raise InvalidInput(f"{path}: nested hundreds of levels deep; a configuration has five") from exc
    findings: list[schema.Problem] = []
    lines = schema.plain(root, str(path), "", findings) if root is not None else None
    if lines is None and findings:
        raise InvalidInput("\n".join(str(finding) for finding in findings))
    if lines is None or not isinstance(lines.value, dict):
        raise InvalidInput(
            f"{path}:1: not a mapping; wanted sections {', '.join(f.name for f in fields(StandaloneConfig))}"
        )
    config = schema.convert(lines.value, StandaloneConfig, str(path), "", lines, findings)
    if config is not None and config.consul is not None:
        findings += _faults_of(config.consul, config, str(path), lines)
    if config is not None and config.etcd is not None and config.etcd.lease_ttl <= 0:
        findings.append(
            schema.Problem(
                str(path),
                lines.child("etcd").line_of("lease_ttl"),
                "etcd.lease_ttl",
                str(config.etcd.lease_ttl),
                "seconds, more than 0",
            )
        )
    if findings:
        raise InvalidInput("\n".join(str(finding) for finding in findings))
    return config, lines.value


def _faults_of(
    consul: Consul, config: StandaloneConfig, path: str, lines: schema.Lines
) -> list[schema.Problem]:
    found: list[schema.Problem] = []
    section = lines.child("consul")
    if config.etcd is not None:
        found.append(
            schema.Problem(
                path, lines.line_of("consul"), "consul", consul.address, "consul or etcd, not both"
            )
        )
    try:
        if not endpoint.on_this_machine(endpoint.parse_endpoint(consul.address)):
            raise InvalidSettings("wanted: the host's own agent, localhost:8500 or unix:/ABSOLUTE/PATH")
    except InvalidSettings as exc:
        line = section.line_of("address")
        found.append(schema.Problem(path, line, "consul.address", consul.address, str(exc).split(": ")[-1]))
    if consul.check_s is None:
        line, given = section.line_of("health_check_interval"), consul.health_check_interval
        wanted = "an interval like 10s, from 50ms to 60m"
        found.append(schema.Problem(path, line, "consul.health_check_interval", given, wanted))
    if not 0 <= consul.health_port < 1 << 16:
        line = section.line_of("health_port")
        found.append(schema.Problem(path, line, "consul.health_port", str(consul.health_port), "0 to 65535"))
    if "/" in consul.service_id or len(consul.service_id) > 128 or not consul.service_id.isprintable():
        line = section.line_of("service_id")
        wanted = "at most 128 characters, none of them a slash"
        found.append(schema.Problem(path, line, "consul.service_id", consul.service_id, wanted))
    return found


def settings_for(kind: DaemonKind, config: StandaloneConfig, given: Mapping[str, Any], source: str) -> Any:
    """The daemon's settings from the sections: parameters by name, limits and the strategy's name where the
    daemon has such a setting.
    """
    known = {f.name for f in fields(kind.settings)}
    settings: dict[str, Any] = dict(config.strategy.parameters)
    if config.strategy.name and "strategy" in known:
        settings.setdefault("strategy", config.strategy.name)
    for limit, value in asdict(config.strategy.risk_limits).items():
        if limit in known and limit in ((given.get("strategy") or {}).get("risk_limits") or {}):
            settings.setdefault(limit, str(value))
    unknown = sorted(set(settings) - known)
    if unknown:
        raise InvalidInput(
            f"{source}: strategy.parameters.{unknown[0]}: unknown, wanted one of {', '.join(sorted(known))}"
        )
    return catalogue.settings_of(kind, settings, source)


def explicit_peers(kind: DaemonKind, config: StandaloneConfig, settings: Any) -> dict[str, agent.Explicit]:
    """Endpoints of the file (market data, orders, risk) by the service that they are used for."""
    given = {
        "market": config.zeromq.market_data.endpoint,
        "orders": config.zeromq.orders.endpoint,
        "risk": config.zeromq.risk_service.endpoint,
    }
    peers: dict[str, agent.Explicit] = {}
    for _, daemon, service, _ in schema.references(settings):
        section, socket = agent.SOCKET_FOR.get((kind.name, daemon), ("", ""))
        if endpoint := given.get(section, ""):
            peers[service] = agent.Explicit(daemon, socket, endpoint)
    return peers
