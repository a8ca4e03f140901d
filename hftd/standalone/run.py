"""Runs one standalone daemon: from its file to its exit code. The file: config.py; what it has in an agent's
place: agent.py.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from controlplane.errors import InvalidInput
from controlplane.host import identity
from controlplane.model.specs import DaemonKind
from controlplane.specs import schema
from controlplane.store import Keys
from hftd import catalogue, runtime
from hftd.runtime.log import LEVELS, Log
from hftd.standalone import agent as agents
from hftd.standalone.config import LEASE_TTL_S, StandaloneConfig, explicit_peers, read, settings_for

STATE_FOLDER = "by-hand"
"""Under the user's state folder, unless HFT_SITE_DIR says otherwise. Journals of earlier releases are in it,
so it keeps its name."""


def start(kind: DaemonKind, path: Path) -> int:
    config, given = read(path)
    settings = settings_for(kind, config, given, str(path))
    service = config.service.name
    chosen = config.consul.service_id if config.consul else ""
    me = identity.myself(chosen or f"{service}-{os.getpid()}")
    if config.logging.file:
        _log_to(config.logging.file, path)
    lines = Log(name=me.instance)
    lines.level = LEVELS[config.logging.level]
    run_dir = Path(tempfile.mkdtemp(prefix="hft-", dir=os.environ.get("XDG_RUNTIME_DIR") or "/dev/shm"))
    state = Path(os.environ.get("HFT_SITE_DIR") or _state_home() / "hftctl" / STATE_FOLDER)
    data_dir = state / "data" / service
    control = f"ipc://{run_dir}/agent"
    agent = agents.StandaloneAgent(
        control,
        service,
        config.service.version,
        me,
        {name: daemon for _, daemon, name, _ in schema.references(settings)},
        explicit_peers(kind, config, settings),
        registry_at(config),
        lines,
    )
    try:
        agent.start()
        try:
            context = runtime.Context(
                site=config.service.environment,
                host="standalone",
                service=service,
                process=me,
                config=runtime.context.Config(1, kind.name, run_dir, state, data_dir, data_dir, {}),
                agent_endpoint=control,
            )
            context.lines = lines
            context.configure(settings, lambda given: catalogue.settings_of(kind, given, "wanted"))
            return catalogue.load(kind)(context, settings).run()
        finally:
            agent.stop()
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def registry_at(config: StandaloneConfig) -> agents.RegistryAt | None:
    """Where the file says that the daemon is to be registered; None: nowhere."""
    etcd, consul = config.etcd, config.consul
    if consul is not None:
        token = f"?token_file={quote(consul.token_file)}" if consul.token_file else ""
        return agents.RegistryAt(
            f"consul://{consul.address}{token}",
            Keys(config.service.environment),
            LEASE_TTL_S,
            agents.Checked(consul.check_s or agents.CHECK_S, consul.health_port),
        )
    if etcd is None:
        return None
    keys = Keys(config.service.environment, etcd.prefix or None)
    return agents.RegistryAt(f"etcd://{','.join(etcd.endpoints)}", keys, etcd.lease_ttl)


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")


def _log_to(file: str, source: Path) -> None:
    """Standard output and error go to the end of the file from now on."""
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        raise InvalidInput(f"{source}: logging.file {file}: {exc.strerror}") from exc
    for standard in (1, 2):
        os.dup2(opened, standard)
    os.close(opened)
