"""services.yml read into specs: the whole file is checked before anything is started, and every fault is
named with file, line and field.

Promises: either all specs come back, complete (defaults of each daemon's own schema filled in, references to
other services resolved), or `InvalidInput` with one line a finding. What a daemon allows is its own
`DaemonKind`, found by the entry point group `hftctl.daemons`, so that a floor can run daemons of others. The
story goes on in floor/up.py, which wants these specs, and in the agents, which start what they say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import yaml

from controlplane.errors import InvalidInput
from controlplane.model import REAL_TIME, DaemonKind, Mode, ServiceSpec
from controlplane.specs import schema
from controlplane.specs.schema import Problem

DAEMONS_GROUP = "hftctl.daemons"
DEFAULT_HOSTS = ("alpha", "beta")
"""The two logical hosts of a laptop floor; a hosts.yml beside services.yml says otherwise."""
SCHEDULERS = ("other", "batch", "idle", *REAL_TIME)
INSTANCES_PER_HOST_MAX = 64
PORT_MAX = 65535
INSTANCE_ID_BYTES_MAX = 64
"""The lease word has so many bytes for it."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FIELDS = (
    "name",
    "daemon",
    "mode",
    "hosts",
    "instances_per_host",
    "cpus",
    "sched",
    "health_port",
    "settings",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a file is checked against."""

    kinds: Mapping[str, DaemonKind]
    hosts: Collection[str]
    cpus: Collection[int]
    """CPUs online on this machine."""


def installed_kinds() -> dict[str, DaemonKind]:
    return {entry.name: entry.load() for entry in metadata.entry_points(group=DAEMONS_GROUP)}


def online_cpus(listing: Path = Path("/sys/devices/system/cpu/online")) -> frozenset[int]:
    """CPU numbers from a kernel list such as `0-3,8`."""
    cpus: set[int] = set()
    for part in listing.read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def known_hosts(services: Path) -> tuple[str, ...]:
    """Host names of the Ansible inventory hosts.yml beside the file, else the laptop's two."""
    inventory = services.with_name("hosts.yml")
    if not inventory.is_file():
        return DEFAULT_HOSTS
    names: dict[str, None] = {}

    def collect(group: object) -> None:
        if not isinstance(group, dict):
            return
        for name in group.get("hosts") or {}:
            names[str(name)] = None
        for child in (group.get("children") or {}).values():
            collect(child)

    try:
        for group in (yaml.safe_load(inventory.read_text()) or {}).values():
            collect(group)
    except (yaml.YAMLError, OSError, ValueError, AttributeError, TypeError, RecursionError) as exc:
        raise InvalidInput(f"{inventory}: not an inventory: {' '.join(str(exc).split())}") from exc
    return tuple(names) or DEFAULT_HOSTS


def read(services: Path, overrides: Mapping[str, Mapping[str, object]] | None = None) -> list[ServiceSpec]:
    """Read and check a file on this machine. `overrides`: settings by daemon, over those of the file (`up
    --tape`).

    Raises:
        InvalidInput: unreadable, or with findings; then one line each.
    """
    try:
        text = services.read_text(encoding="utf-8")
    except OSError as exc:
        raise InvalidInput(f"{services}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidInput(f"{services}: not UTF-8 text (byte {exc.start})") from exc
    found = parse(
        text,
        str(services),
        Surroundings(installed_kinds(), known_hosts(services), online_cpus()),
        overrides or {},
    )
    if isinstance(found, list):
        return found
    raise InvalidInput("\n".join(str(finding) for finding in found.all))


@dataclass(frozen=True, slots=True)
class Problems:
    all: tuple[Problem, ...]


def parse(
    text: str, file: str, around: Surroundings, overrides: Mapping[str, Mapping[str, object]] | None = None
) -> list[ServiceSpec] | Problems:
    """Pure: the specs, or every finding in file order."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        return Problems((Problem(file, line, "", exc.problem or "broken", "YAML"),))
    except yaml.YAMLError as exc:
        return Problems((Problem(file, 1, "", " ".join(str(exc).split()), "YAML"),))
    except RecursionError:  # the parser calls itself for each level
        return Problems((Problem(file, 1, "", "hundreds of levels inside each other", "a services file"),))
    reader = _Reader(file, around, overrides or {})
    reader.file_node(root)
    if not reader.findings:
        reader.references()
    return (
        Problems(tuple(sorted(reader.findings, key=lambda f: f.line))) if reader.findings else reader.specs()
    )


@dataclass(slots=True)
class _Service:
    """One entry of the list while it is being checked."""

    path: str
    line: int
    lines: dict[str, int]
    """Line of each field, and of each settings key as `settings.KEY`."""
    spec: ServiceSpec
    kind: DaemonKind
    settings: object


def _complete(settings: Any) -> dict[str, object]:
    """All settings as plain JSON values, so that what was just read equals what comes back from the store."""
    plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(asdict(settings)))
    return plain


class _Reader:
    def __init__(
        self, file: str, around: Surroundings, overrides: Mapping[str, Mapping[str, object]]
    ) -> None:
        self.file = file
        self.around = around
        self.overrides = overrides
        self.findings: list[Problem] = []
        self.services: list[_Service] = []
        self.uses: dict[str, tuple[list[str], list[str]]] = {}

    def fault(self, line: int, field: str, found: object, wanted: str) -> None:
        self.findings.append(Problem(self.file, line, field, schema.shown(found), wanted))

    def file_node(self, root: yaml.Node | None) -> None:
        if root is None:
            self.fault(1, "services", None, "a list of services")
            return
        top = schema.plain(root, self.file, "", self.findings)
        if top is None:
            return
        if not isinstance(top.value, dict):
            self.fault(1, "", top.value, "a mapping with the key services")
            return
        for key in top.value:
            if key != "services":
                self.fault(top.line_of(key), str(key), key, "services (the only key of the file)")
        services = top.value.get("services")
        if not isinstance(services, list) or not services:
            self.fault(top.line_of("services"), "services", services, "a list of services")
            return
        node = top.child("services")
        for index, entry in enumerate(services):
            self.service(f"services[{index}]", entry, node.child(index))
        self.duplicates()

    def service(self, path: str, entry: object, node: schema.Lines) -> None:
        if not isinstance(entry, dict):
            self.fault(node.line, path, entry, f"a mapping of {', '.join(_FIELDS)}")
            return
        before = len(self.findings)
        for key in entry:
            if key not in _FIELDS:
                self.fault(node.line_of(key), f"{path}.{key}", key, f"one of {', '.join(_FIELDS)}")
        name = self.name(path, entry, node)
        kind = self.daemon(path, entry, node)
        mode = self.mode(path, entry, node, kind)
        hosts = self.hosts(path, entry, node, mode)
        wanted = f"a whole number from 1 to {INSTANCES_PER_HOST_MAX}"
        per_host = self.whole(
            path, entry, node, "instances_per_host", range(1, INSTANCES_PER_HOST_MAX + 1), wanted
        )
        cpus = self.cpus(path, entry, node)
        sched = entry.get("sched", "other")
        if sched not in SCHEDULERS:
            self.fault(node.line_of("sched"), f"{path}.sched", sched, f"one of {', '.join(SCHEDULERS)}")
        last = PORT_MAX + 1 - max(1, len(hosts) * per_host)
        health_port = self.whole(
            path, entry, node, "health_port", range(last + 1), f"a port from 1 to {last}, or 0 for none"
        )
        settings = self.settings(path, entry, node, kind) if kind else None
        if len(self.findings) > before or not (name and kind and mode):
            return
        if mode is Mode.SINGLETON and len(hosts) * per_host > 1:
            self.fault(
                node.line_of("hosts"),
                f"{path}.hosts",
                f"{len(hosts)} hosts x {per_host}",
                "one instance, as the mode is singleton",
            )
        if mode is Mode.PER_HOST and per_host != 1:
            self.fault(
                node.line_of("instances_per_host"),
                f"{path}.instances_per_host",
                per_host,
                "1, as the mode is per_host",
            )
        spec = ServiceSpec(
            name,
            kind.name,
            mode,
            hosts,
            per_host,
            cpus,
            str(sched),
            _complete(settings),
            health_port=health_port,
        )
        for slot in spec.slots():
            if len(slot.instance.encode()) >= INSTANCE_ID_BYTES_MAX:
                self.fault(
                    node.line_of("name"),
                    f"{path}.name",
                    slot.instance,
                    f"instance ids under {INSTANCE_ID_BYTES_MAX} bytes",
                )
        lines = {str(key): node.line_of(key) for key in entry}
        if isinstance(entry.get("settings"), dict):
            below = node.child("settings")
            lines |= {f"settings.{key}": below.line_of(key) for key in entry["settings"]}
        self.services.append(_Service(path, node.line, lines, spec, kind, settings))

    def name(self, path: str, entry: dict[Any, Any], node: schema.Lines) -> str:
        name = entry.get("name")
        if isinstance(name, str) and _NAME.fullmatch(name):
            return name
        self.fault(
            node.line_of("name"),
            f"{path}.name",
            name,
            "a name of lower-case letters, digits and single hyphens",
        )
        return ""

    def daemon(self, path: str, entry: dict[Any, Any], node: schema.Lines) -> DaemonKind | None:
        daemon = entry.get("daemon")
        kind = self.around.kinds.get(daemon) if isinstance(daemon, str) else None
        if kind is None:
            self.fault(
                node.line_of("daemon"),
                f"{path}.daemon",
                daemon,
                f"one of {', '.join(sorted(self.around.kinds))}",
            )
        return kind

    def mode(
        self, path: str, entry: dict[Any, Any], node: schema.Lines, kind: DaemonKind | None
    ) -> Mode | None:
        mode = entry.get("mode")
        fitting = [m.value for m in Mode if kind is None or m in kind.modes]
        if mode in fitting:
            return Mode(mode)
        wanted = f"one of {', '.join(fitting)}" if len(fitting) > 1 else fitting[0]
        self.fault(
            node.line_of("mode"),
            f"{path}.mode",
            mode,
            f"{wanted} (what {kind.name} can run as)" if kind else wanted,
        )
        return None

    def hosts(
        self, path: str, entry: dict[Any, Any], node: schema.Lines, mode: Mode | None
    ) -> tuple[str, ...]:
        hosts = entry.get("hosts")
        if not isinstance(hosts, list) or not hosts:
            self.fault(
                node.line_of("hosts"),
                f"{path}.hosts",
                hosts,
                f"a list of hosts of this site ({', '.join(self.around.hosts)})",
            )
            return ()
        below = node.child("hosts")
        for index, host in enumerate(hosts):
            field = f"{path}.hosts[{index}]"
            if host not in self.around.hosts:
                self.fault(below.line_of(index), field, host, f"one of {', '.join(self.around.hosts)}")
            elif host in hosts[:index]:
                self.fault(
                    below.line_of(index),
                    field,
                    host,
                    f"each host once: {entry.get('name')}-{host}-1 would be a duplicate instance",
                )
        return tuple(str(host) for host in hosts)

    def whole(
        self, path: str, entry: dict[Any, Any], node: schema.Lines, field: str, fits: range, wanted: str
    ) -> int:
        """A whole number; the lowest that fits when none is given."""
        found = entry.get(field, fits.start)
        if isinstance(found, int) and not isinstance(found, bool) and found in fits:
            return found
        self.fault(node.line_of(field), f"{path}.{field}", found, wanted)
        return fits.start

    def cpus(self, path: str, entry: dict[Any, Any], node: schema.Lines) -> tuple[int, ...]:
        cpus = entry.get("cpus", [])
        online = schema.ranges(self.around.cpus)
        if not isinstance(cpus, list):
            self.fault(
                node.line_of("cpus"), f"{path}.cpus", cpus, f"a list of CPU numbers; online here: {online}"
            )
            return ()
        below = node.child("cpus") if "cpus" in entry else node
        for index, cpu in enumerate(cpus):
            if not isinstance(cpu, int) or isinstance(cpu, bool):
                self.fault(
                    below.line_of(index), f"{path}.cpus[{index}]", cpu, f"a CPU number; online here: {online}"
                )
            elif cpu not in self.around.cpus:
                self.fault(
                    below.line_of(index),
                    f"{path}.cpus[{index}]",
                    cpu,
                    f"a CPU that exists; online here: {online}",
                )
            elif cpu in cpus[:index]:
                self.fault(below.line_of(index), f"{path}.cpus[{index}]", cpu, "each CPU once")
        return tuple(cpus)

    def settings(
        self, path: str, entry: dict[Any, Any], node: schema.Lines, kind: DaemonKind
    ) -> object | None:
        given = entry.get("settings")
        if given is None:
            given = {}
        field = f"{path}.settings"
        if not isinstance(given, dict):
            self.fault(node.line_of("settings"), field, given, f"a mapping of settings of {kind.name}")
            return None
        lines = node.child("settings") if entry.get("settings") else node
        options = self.overrides.get(kind.name, {})
        before = len(self.findings)
        settings: object | None = schema.convert(
            {**given, **options}, kind.settings, self.file, field, lines, self.findings
        )
        named = {f"{field}.{name}": f"--{name}" for name in options}
        self.findings[before:] = [
            replace(each, file="command line", line=0, field=named[each.field])
            if each.field in named
            else each
            for each in self.findings[before:]
        ]
        return settings

    def duplicates(self) -> None:
        """A service, or an instance, named twice would share a lease word, a log and a registration."""
        services: dict[str, _Service] = {}
        owners: dict[str, _Service] = {}
        ports: dict[int, str] = {}
        for service in self.services:
            first = services.setdefault(service.spec.name, service)
            if first is not service:
                self.fault(
                    service.lines["name"],
                    f"{service.path}.name",
                    service.spec.name,
                    f"each service once (first on line {first.lines['name']})",
                )
                continue
            for slot in service.spec.slots():
                owner = owners.setdefault(slot.instance, service)
                if owner is not service:
                    self.fault(
                        service.lines["name"],
                        f"{service.path}.name",
                        slot.instance,
                        f"each instance once ({owner.spec.name} has it)",
                    )
            for slot, port in service.spec.health_ports():  # hosts may share a machine, as a laptop's do
                taken = ports.setdefault(port, slot.instance)
                if taken != slot.instance:
                    wanted = f"a port of its own for each instance ({taken} has it)"
                    self.fault(
                        service.lines["health_port"],
                        f"{service.path}.health_port",
                        f"{port} for {slot.instance}",
                        wanted,
                    )

    def references(self) -> None:
        by_name = {service.spec.name: service for service in self.services}
        for service in self.services:
            uses: list[str] = []
            fences: list[str] = []
            for field, wanted, value, fence in schema.references(service.settings):
                line = service.lines.get(f"settings.{field.partition('.')[0]}", service.line)
                target = by_name.get(value)
                if target is None or target.spec.daemon != wanted:
                    runs = [s.spec.name for s in self.services if s.spec.daemon == wanted]
                    known = f" ({', '.join(runs)})" if runs else " (none does)"
                    self.fault(
                        line,
                        f"{service.path}.settings.{field}",
                        value,
                        f"a service of this file that runs {wanted}{known}",
                    )
                    continue
                uses.append(value)
                if fence and target.spec.mode is Mode.ACTIVE_STANDBY:
                    fences.append(value)
            if service.spec.mode is Mode.ACTIVE_STANDBY:
                uses.append(service.spec.name)  # members find each other, to replicate
            self.uses[service.spec.name] = (list(dict.fromkeys(uses)), list(dict.fromkeys(fences)))

    def specs(self) -> list[ServiceSpec]:
        complete = []
        for service in self.services:
            uses, fences = self.uses[service.spec.name]
            complete.append(replace(service.spec, uses=tuple(uses), fences=tuple(fences)))
        return complete
