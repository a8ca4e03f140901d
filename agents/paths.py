"""Where the instances of one host live; layout as in docs/protocol.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Where an agent's instances live; layout as in docs/protocol.md."""

    site: str
    host: str
    site_dir: Path
    run_dir: Path
    journal_dir: Path | None = None
    """HFT_JOURNAL_DIR: journals on a disk of their own; None: beside the other data."""

    def config(self, instance: str) -> Path:
        return self.run_dir / f"{instance}.config.json"

    def alive(self, instance: str) -> Path:
        return self.run_dir / f"{instance}.alive"

    def lease(self, instance: str) -> Path:
        return self.run_dir / f"{instance}.lease"

    def shim_state(self, instance: str) -> Path:
        return self.run_dir / f"{instance}.shim.json"

    def lock(self, instance: str) -> Path:
        """Held by the instance's shim and daemon for as long as either lives; in the site folder, so that it
        is the same one whatever becomes of the run folder."""
        return self.host_dir / "instances" / f"{instance}.lock"

    def log(self, instance: str) -> Path:
        return self.site_dir / "logs" / f"{instance}.log"

    def data(self, instance: str) -> Path:
        return self.site_dir / "data" / instance

    def journal(self, instance: str) -> Path:
        return self.journal_dir / instance if self.journal_dir else self.data(instance)

    @property
    def bus(self) -> str:
        return f"ipc://{self.run_dir / self.host}.bus"

    @property
    def http_socket(self) -> Path:
        return self.http_socket_of(self.host)

    def http_socket_of(self, host: str) -> Path:
        """Of another agent of this machine: they share the run folder."""
        return self.run_dir / f"{host}.agent.sock"

    @property
    def keeper_socket(self) -> Path:
        return self.run_dir / f"{self.host}.keeper.sock"

    @property
    def specs(self) -> Path:
        """The specs in force on the host (last_specs.py)."""
        return self.host_dir / "specs.json"

    @property
    def breakers(self) -> Path:
        """What operators have forced upon breakers (breaker_overrides.py)."""
        return self.host_dir / "breakers.json"

    @property
    def configuration(self) -> Path:
        """Settings and plain keys in force on the host (wanted_config.py)."""
        return self.host_dir / "config.json"

    @property
    def host_dir(self) -> Path:
        return self.site_dir / "hosts" / self.host
