"""Runs one daemon without an agent: from its file to its exit code."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import identity
from controlplane.model import DaemonKind
from controlplane.specs import schema
from hftd import catalogue, runtime
from hftd.runtime.log import LEVELS, Log
from hftd.standalone import agent as agents
from hftd.standalone.config import explicit_peers, read, settings_for


def start(kind: DaemonKind, path: Path) -> int:
    config, given = read(path)
    settings = settings_for(kind, config, given, str(path))
    site, service, pid = config.service.environment, config.service.name, os.getpid()
    instance = f"{service}-{pid}"
    me = identity.myself(instance)
    if config.logging.file:
        try:
            file = os.open(config.logging.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            raise InvalidInput(f"{path}: logging.file {config.logging.file}: {exc.strerror}") from exc
        for standard in (1, 2):
            os.dup2(file, standard)
        os.close(file)
    lines = Log(name=instance)
    lines.level = LEVELS[config.logging.level]
    run_dir = Path(tempfile.mkdtemp(prefix="hft-", dir=os.environ.get("XDG_RUNTIME_DIR") or "/dev/shm"))
    state = Path(
        os.environ.get("HFT_SITE_DIR")
        or Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "hftctl" / "by-hand"
    )
    data_dir = state / "data" / service
    control = f"ipc://{run_dir}/agent"
    rendered = runtime.context.Config(1, kind.name, run_dir, state, data_dir, data_dir, {})
    store = (
        agents.Registry(config.etcd.endpoints, config.etcd.prefix or f"hft/{site}", config.etcd.lease_ttl)
        if config.etcd
        else None
    )
    uses = {name: daemon for _, daemon, name, _ in schema.references(settings)}
    agent = agents.StandaloneAgent(
        control,
        service,
        config.service.version,
        me,
        uses,
        explicit_peers(kind, config, settings),
        store,
        lines,
    )
    agent.start()
    try:
        context = runtime.Context(
            site=site, host="by-hand", service=service, process=me, config=rendered, agent_endpoint=control
        )
        context.lines = lines
        return catalogue.load(kind)(context, settings).run()
    finally:
        agent.stop()
        shutil.rmtree(run_dir, ignore_errors=True)
