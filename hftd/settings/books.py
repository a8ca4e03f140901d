"""Settings of the daemons that keep what has happened: positiond and auditd."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.model import Mode
from controlplane.model.specs import DaemonKind
from hftd.settings import checked


@dataclass(frozen=True, slots=True)
class PositionSettings:
    sync: bool = False
    """True: an execution is acknowledged once it is on the disk. False: once it is written, which survives
    kill -9; it is on the disk within a second."""

    log_executions_max: int = 100_000
    """Executions in the log before it is folded into a new snapshot: bounds disk space and start-up time."""

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    tops: str = field(default="bookd", metadata={"service": "bookd"})

    def __post_init__(self) -> None:
        checked.within("positiond", {"log_executions_max": (self.log_executions_max, 1, 10_000_000)})


POSITIOND = DaemonKind(
    "positiond",
    PositionSettings,
    frozenset({Mode.SINGLETON}),
    "hftd.daemons.positiond",
    live=True,
)


@dataclass(frozen=True, slots=True)
class AuditSettings:
    sync: bool = False
    """True: a record is acknowledged once it is on the disk. False: once it is written, which survives
    kill -9; it is on the disk with the next head."""

    head_every_s: float = 1.0
    """The log, then its head, are synced at least this often and on stop, which bounds what a power cut may
    take."""

    file_bytes_max: int = 16 << 20
    """Size at which the next file is begun."""

    sign_every_s: float = 10.0
    """A head that has moved is signed this often, when a file is begun, after 9,000 records, and on stop. It
    costs a wait for the disk, and 370 bytes of audit.signatures: 3 MB a day at the default."""

    log_level: checked.LogLevel = ""
    """The least that goes to its log; empty: as the agent's HFT_LOG_LEVEL says."""

    def __post_init__(self) -> None:
        checked.within(
            "auditd",
            {
                "head_every_s": (self.head_every_s, 0.01, 1.0),
                "sign_every_s": (self.sign_every_s, 0.01, 3600.0),
                "file_bytes_max": (self.file_bytes_max, 4096, 1 << 30),
            },
        )


AUDITD = DaemonKind("auditd", AuditSettings, frozenset({Mode.SINGLETON}), "hftd.daemons.auditd", live=True)
