"""What to run for one slot: command, environment, rendered config, pinning, and the hash that says whether it
has changed. Pure, save `write_config`.

HFT_CONFIG is rendered here and nowhere else; its fields are in docs/protocol.md. runner.py runs a Program;
supervisor.py decides when.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agents import paths
from controlplane.host import files
from controlplane.host.files import Durability
from controlplane.model import Mode, ServiceSpec, Slot
from controlplane.model.bounds import Count
from controlplane.model.config import FIRST_REVISION

STOP_GRACE_S = 5.0
"""From SIGTERM to SIGKILL: a daemon has to cancel, sync and say goodbye in it."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, complete, and the revision of the document that they are."""

    revision: Count
    settings: Mapping[str, object] = field(default_factory=dict)


def of_spec(spec: ServiceSpec) -> Configuration:
    """What services.yml says, while nobody has changed it in the store."""
    return Configuration(FIRST_REVISION, spec.settings)


@dataclass(frozen=True, slots=True)
class Program:
    slot: Slot
    argv: tuple[str, ...]
    env: Mapping[str, str]
    config: bytes
    """Written to `config_path` before the start."""
    config_path: Path
    cpus: tuple[int, ...]
    left_out: tuple[str, ...]
    """What the spec asks for and this user may not have; said once."""
    spec_hash: str
    spec_revision: int
    config_revision: int
    grace_s: float = STOP_GRACE_S


def spec_hash(spec: ServiceSpec, settings: Mapping[str, object] | None = None) -> str:
    """Changes with whatever a running process would have to be restarted for; not with where else the service
    runs, nor with a setting that reaches a running one. `settings`: in force; None: the spec's own.
    """
    settings = spec.settings if settings is None else settings
    if spec.restart is not None:
        settings = {name: value for name, value in settings.items() if name in spec.restart}
    relevant = (
        spec.name,
        spec.daemon,
        spec.mode,
        sorted(spec.cpus),
        spec.sched,
        settings,
        sorted(spec.fences),
    )
    return hashlib.sha256(msgspec.json.encode(relevant, order="deterministic")).hexdigest()[:16]


def scheduling(spec: ServiceSpec, *, real_time: bool) -> str:
    """The policy that the spec asks for, as far as this user may have it."""
    return spec.sched if real_time or not spec.real_time else "other"


def render(
    spec: ServiceSpec, slot: Slot, folders: paths.Paths, config: Configuration, flags: Mapping[str, Any]
) -> bytes:
    return msgspec.json.encode(
        {
            "revision": config.revision,
            "daemon": spec.daemon,
            "run_dir": str(folders.run_dir),
            "site_dir": str(folders.site_dir),
            "data_dir": str(folders.data(slot.instance)),
            "journal_dir": str(folders.journal(slot.instance)),
            "settings": config.settings,
            "flags": flags,
        },
        order="deterministic",
    )


def command(spec: ServiceSpec) -> tuple[str, ...]:
    return (sys.executable, "-m", "hftd", spec.daemon)


def program(
    spec: ServiceSpec,
    slot: Slot,
    folders: paths.Paths,
    spec_revision: int,
    *,
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    real_time: bool,
    config: Configuration | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Program:
    """The program of one slot; `environment` is what the agent itself was given. `config`: None, what the
    spec says; `flags`: the site's plain keys.
    """
    config = of_spec(spec) if config is None else config
    config_path = folders.config(slot.instance)
    env = {
        name: value for name, value in environment.items() if not name.startswith("HFT_") or name in PASSED_ON
    }
    env |= {
        "HFT_SITE": folders.site,
        "HFT_HOST": slot.host,
        "HFT_SERVICE": slot.service,
        "HFT_INSTANCE": slot.instance,
        "HFT_AGENT": folders.bus,
        "HFT_ALIVE": str(folders.alive(slot.instance)),
        "HFT_CONFIG": str(config_path),
    }
    if spec.mode is Mode.ACTIVE_STANDBY:
        env["HFT_LEASE"] = str(folders.lease(slot.instance))
    sched = scheduling(spec, real_time=real_time)
    if sched != "other":
        env["HFT_SCHED"] = sched
    return Program(
        slot=slot,
        argv=argv,
        env=env,
        config=render(spec, slot, folders, config, flags or {}),
        config_path=config_path,
        cpus=spec.cpus,
        left_out=(f"sched {spec.sched} and locked memory: not permitted to this user",)
        if sched != spec.sched
        else (),
        spec_hash=spec_hash(spec, config.settings),
        spec_revision=spec_revision,
        config_revision=config.revision,
    )


PASSED_ON = frozenset({"HFT_RECORDED_DATA", "HFT_JOURNAL_DIR", "HFT_FLOOR", "HFT_NATIVE", "HFT_LOG_LEVEL"})
"""Of the agent's own HFT_ variables; the others are about the agent. HFT_FLOOR marks every process of a floor
for `hftctl down`."""


def write_config(ready: Program) -> None:
    files.replace(ready.config_path, ready.config, Durability.CRASH)  # on tmpfs, and rendered at each start
