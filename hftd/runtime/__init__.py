"""What every daemon stands on: its context (who it is, what it may use, what it reports) and THE poll loop.

Others use `Context`, `Loop`, `Heads` (numbered envelopes), `Timer`, `waits`, log.py (lines that never wait)
and parent.py (a daemon dies with its shim). The rest serves these: agent_link.py, leadership.py (the lease
page read, the heartbeat page written), health.py, in_force.py (settings that change while it runs),
breakers.py (a daemon's circuit breakers), worker.py (the thread for what waits for a disk).
"""

from hftd.runtime.context import Context
from hftd.runtime.heads import Heads
from hftd.runtime.loop import Loop, Timer, waits
from hftd.runtime.worker import Worker

__all__ = [
    "Context",
    "Heads",
    "Loop",
    "Timer",
    "Worker",
    "context",
    "log",
    "parent",
    "waits",
]
