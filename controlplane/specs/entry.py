"""One service of services.yml: the fields there are, and what each may hold. schema.py checks a file against
it; what is between services (a name twice, a reference) is read.py's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from controlplane.model import Mode, ServiceSpec, bounds
from controlplane.model.specs import REAL_TIME, DaemonKind
from controlplane.specs import schema
from controlplane.specs.schema import Beside, rules

SCHEDULERS = ("other", "batch", "idle", *REAL_TIME)
PORT_MAX = 65535
INSTANCE_ID_BYTES_MAX = 64
"""The lease page has this many bytes for an id."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a file is checked against."""

    kinds: Mapping[str, DaemonKind]
    hosts: Collection[str]
    cpus: Collection[int]
    """CPUs online on this machine."""


# --- the rule of each field: what is wanted instead, or "" --------------------------------------------------


def _name(value: object, beside: Beside[Surroundings]) -> str:
    good = isinstance(value, str) and _NAME.fullmatch(value)
    return "" if good else "a name of lower-case letters, digits and single hyphens"


def _kind(value: object, around: Surroundings) -> DaemonKind | None:
    return around.kinds.get(value) if isinstance(value, str) else None


def _daemon(value: object, beside: Beside[Surroundings]) -> str:
    return "" if _kind(value, beside.around) else f"one of {', '.join(sorted(beside.around.kinds))}"


def _mode(value: object, beside: Beside[Surroundings]) -> str:
    kind = _kind(beside.given.get("daemon"), beside.around)
    fitting = [str(mode) for mode in Mode if kind is None or mode in kind.modes]
    if value in fitting:
        return ""
    wanted = f"one of {', '.join(fitting)}" if len(fitting) > 1 else fitting[0]
    return f"{wanted} (what {kind.name} can run as)" if kind else wanted


def _hosts(value: object, beside: Beside[Surroundings]) -> str:
    if isinstance(value, list) and value:
        return ""
    return f"a list of hosts of this site ({', '.join(beside.around.hosts)})"


def _host(value: object, beside: Beside[Surroundings]) -> str:
    if not isinstance(value, str) or value not in beside.around.hosts:
        return f"one of {', '.join(beside.around.hosts)}"
    if value in beside.earlier:
        return f"each host once: {beside.given.get('name')}-{value}-1 would be a duplicate instance"
    return ""


def _instances_per_host(value: object, beside: Beside[Surroundings]) -> str:
    good = _whole(value) and value in range(1, bounds.INSTANCES_MAX + 1)
    return "" if good else f"a whole number from 1 to {bounds.INSTANCES_MAX}"


def _cpus(value: object, beside: Beside[Surroundings]) -> str:
    return "" if isinstance(value, list) else f"a list of CPU numbers; {_online(beside.around)}"


def _cpu(value: object, beside: Beside[Surroundings]) -> str:
    if not _whole(value):
        return f"a CPU number; {_online(beside.around)}"
    if value not in beside.around.cpus:
        return f"a CPU that exists; {_online(beside.around)}"
    return "each CPU once" if value in beside.earlier else ""


def _sched(value: object, beside: Beside[Surroundings]) -> str:
    return "" if value in SCHEDULERS else f"one of {', '.join(SCHEDULERS)}"


def _health_port(value: object, beside: Beside[Surroundings]) -> str:
    return "" if _whole(value) and value in range(PORT_MAX + 1) else _ports(PORT_MAX)


def _checks(value: object, beside: Beside[Surroundings]) -> str:
    return ""  # check_entry.py goes into them, and has the line of each


def _settings(value: object, beside: Beside[Surroundings]) -> str:
    kind = _kind(beside.given.get("daemon"), beside.around)
    good = value is None or isinstance(value, dict)
    return "" if good or kind is None else f"a mapping of settings of {kind.name}"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _online(around: Surroundings) -> str:
    return f"online here: {schema.ranges(around.cpus)}"


def _ports(last: int) -> str:
    return f"a port from 1 to {last}, or 0 for none"


# --- the entry ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """As written; the settings are checked against the daemon's own schema after it."""

    name: str = field(metadata=rules(_name))
    daemon: str = field(metadata=rules(_daemon))
    mode: Mode = field(metadata=rules(_mode))
    hosts: tuple[str, ...] = field(metadata=rules(_hosts, _host))
    instances_per_host: int = field(default=1, metadata=rules(_instances_per_host))
    cpus: tuple[int, ...] = field(default=(), metadata=rules(_cpus, _cpu))
    sched: str = field(default="other", metadata=rules(_sched))
    health_port: int = field(default=0, metadata=rules(_health_port))
    settings: Mapping[str, object] | None = field(default=None, metadata=rules(_settings))
    checks: object = field(default=(), metadata=rules(_checks))

    def misfits(self, spec: ServiceSpec) -> Iterator[tuple[str, object, str]]:
        """(field, found, wanted) of fields that are good by themselves and do not fit together. `spec`: this
        entry's.
        """
        slots = spec.slots()
        if self.mode is Mode.SINGLETON and len(slots) > 1:
            found = f"{len(self.hosts)} hosts x {self.instances_per_host}"
            yield "hosts", found, "one instance, as the mode is singleton"
        if self.mode is Mode.PER_HOST and self.instances_per_host != 1:
            yield "instances_per_host", self.instances_per_host, "1, as the mode is per_host"
        last = PORT_MAX + 1 - len(slots)
        if self.health_port > last:
            yield "health_port", self.health_port, _ports(last)
        for slot in slots:
            if len(slot.instance.encode()) >= INSTANCE_ID_BYTES_MAX:
                yield "name", slot.instance, f"instance ids under {INSTANCE_ID_BYTES_MAX} bytes"
