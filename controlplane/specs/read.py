"""services.yml read into specs: the whole file is checked before anything is started, and every fault is
named with file, line and field.

Promises: either all specs come back, complete (defaults of each daemon's own schema filled in, references to
other services resolved), or `InvalidInput` with one line a finding. What a daemon allows is its own
`DaemonKind`, found by the entry point group `hftctl.daemons`, so that a floor can run daemons of others.
What a field of a service may hold is declared in entry.py; here is what lies between services. The story goes
on in apply.py, which writes these specs into the store, and in the agents, which start what they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import yaml

from controlplane.config.documents import DOCUMENT_BYTES_MAX
from controlplane.errors import InvalidInput
from controlplane.model import Mode, ServiceSpec
from controlplane.model.specs import DaemonKind
from controlplane.specs import check_entry, schema, settings_check
from controlplane.specs.entry import ServiceEntry, Surroundings
from controlplane.specs.schema import Problem

DAEMONS_GROUP = "hftctl.daemons"
DEFAULT_HOSTS = ("alpha", "beta")
"""The two logical hosts of a laptop floor; a hosts.yml beside services.yml says otherwise."""


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
    except (*schema.NOT_CONSTRUCTED, OSError, RecursionError) as exc:
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
    kinds = installed_kinds()
    found = parse(
        text,
        str(services),
        Surroundings(kinds, known_hosts(services), online_cpus()),
        overrides or {},
    )
    if isinstance(found, list):
        _check_here(found, kinds)
        return found
    raise InvalidInput("\n".join(str(finding) for finding in found.all))


def _check_here(specs: Sequence[ServiceSpec], kinds: Mapping[str, DaemonKind]) -> None:
    for spec in specs:
        settings_check.check_here(kinds[spec.daemon], spec.settings, spec.name)


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
    """Line of each field, of each settings key as `settings.KEY`, of an alias as `checks[N].of`."""
    spec: ServiceSpec
    settings: object


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

    def service(self, path: str, given: object, node: schema.Lines) -> None:
        if not isinstance(given, dict):
            names = ", ".join(each.name for each in fields(ServiceEntry))
            self.fault(node.line, path, given, f"a mapping of {names}")
            return
        before = len(self.findings)
        around = self.around
        entry = schema.convert(given, ServiceEntry, self.file, path, node, self.findings, around)
        kind = around.kinds.get(str(given.get("daemon")))
        settings = self.settings(path, given, node, kind) if kind else None
        if settings is not None:
            self.size(path, node, settings)
        checks: tuple[Any, ...] = ()
        if given.get("checks") is not None:
            lines_of_checks = node.child("checks")
            checks = check_entry.read(
                given["checks"], self.file, f"{path}.checks", lines_of_checks, self.findings
            )
            if given.get("mode") == Mode.ACTIVE_STANDBY:
                check_entry.of_a_group(
                    given["checks"], self.file, f"{path}.checks", lines_of_checks, self.findings
                )
        if len(self.findings) > before:
            return
        assert isinstance(entry, ServiceEntry) and kind is not None, "what is missing is a finding"
        spec = ServiceSpec(
            entry.name,
            kind.name,
            entry.mode,
            entry.hosts,
            entry.instances_per_host,
            entry.cpus,
            entry.sched,
            settings_check.complete(settings),
            health_port=entry.health_port,
            restart=settings_check.restart_fields(kind),
            checks=checks,
        )
        for field, found, wanted in entry.misfits(spec):
            self.fault(node.line_of(field), f"{path}.{field}", found, wanted)
        lines = {str(key): node.line_of(key) for key in given}
        if entry.settings:
            below = node.child("settings")
            lines |= {f"settings.{key}": below.line_of(key) for key in entry.settings}
        for index in range(len(checks)):
            lines[f"checks[{index}].of"] = node.child("checks").child(index).line_of("of")
        self.services.append(_Service(path, node.line, lines, spec, settings))

    def settings(
        self, path: str, entry: dict[Any, Any], node: schema.Lines, kind: DaemonKind
    ) -> object | None:
        """As the daemon's own schema has them, with those of the command line over those of the file."""
        given = entry.get("settings") or {}
        if not isinstance(given, dict):
            return None  # said by the entry's own rule
        field = f"{path}.settings"
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

    def size(self, path: str, node: schema.Lines, settings: object) -> None:
        """With its defaults, as it is stored."""
        found = len(msgspec.json.encode(settings))
        if found > DOCUMENT_BYTES_MAX:
            wanted = f"at most {DOCUMENT_BYTES_MAX} bytes (name files instead)"
            self.findings.append(
                Problem(self.file, node.line_of("settings"), f"{path}.settings", f"{found} bytes", wanted)
            )

    def duplicates(self) -> None:
        """A service, or an instance, named twice would share a lease page, a log and a registration."""
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
        checks = {name: service.spec.checks for name, service in by_name.items()}
        for name, index, wanted in check_entry.aliases(checks):
            check, field = checks[name][index], f"checks[{index}].of"
            found = getattr(check, "of", None)
            self.fault(by_name[name].lines[field], f"{by_name[name].path}.{field}", found, wanted)

    def specs(self) -> list[ServiceSpec]:
        complete = []
        for service in self.services:
            uses, fences = self.uses[service.spec.name]
            complete.append(replace(service.spec, uses=tuple(uses), fences=tuple(fences)))
        return complete
