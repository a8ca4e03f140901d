"""A daemon's link to its agent: hello, status once a second, answers; peers, drain, reload and stop coming
back.

The agent may die and come back at any time: the link says hello until it is welcomed and goes on; nothing of
the data path waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from controlplane.model import Process
from hftd import bus
from hftd.runtime import heads
from hftd.wire import codec, control

UNTOLD_MAX = 100
"""Events that wait for an agent; then the oldest are in this daemon's log alone."""


class AgentLink:
    def __init__(self, endpoint: str | None, process: Process) -> None:
        self._process = process
        self._dealer = bus.link.Dealer(process.instance, endpoint) if endpoint else None
        self._head = heads.Heads(process.instance)
        self._welcomed = False
        self._untold: deque[tuple[str, dict[str, Any]]] = deque(maxlen=UNTOLD_MAX)

    @property
    def socket(self) -> zmq.Socket[bytes] | None:
        return self._dealer.socket if self._dealer else None

    def send(self, make: Callable[..., control.FromDaemon], *fields: Any, **named: Any) -> bool:
        """False when no agent listens; it will be told by the next status."""
        if self._dealer is None:
            return False
        return self._dealer.send(codec.encode(make(*self._head(), *fields, **named)))

    def event(self, kind: str, fields: dict[str, Any]) -> None:
        """Kept until the agent knows this process: before its welcome it believes nothing."""
        if not (self._welcomed and self.send(control.Event, kind, fields)) and self._dealer:
            self._untold.append((kind, fields))

    def welcomed(self) -> None:
        self._welcomed = True
        for _ in range(len(self._untold)):
            self.event(*self._untold.popleft())

    def hello(self, daemon: str, version: str, endpoints: dict[str, str]) -> bool:
        return self.send(control.Hello, codec.ProcessOnWire.of(self._process), daemon, version, endpoints)
