"""The Registry port: what a keeper, or a daemon that registers itself, asks of discovery's back end.

Callers say what shall be registered and never wait: `register`, `update` and `deregister` only note what is
wanted, `run` makes the store agree with it and goes on doing so. A store that is away therefore holds up
nothing of the caller's, and nothing has to be said twice when it is back.

Every back end passes tests/contract/test_registry.py. leased.py is the one on leased keys (etcd, memory), and
one half of the one on Consul; the other half, consul/services.py, keeps a real service with a real check at
the host's own Consul agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from controlplane.model import Process
from controlplane.model.records import Registration


class Registry(Protocol):
    """Registrations of one owner (a host's keeper, or one process), kept while `run` runs. For one event
    loop.
    """

    def register(self, registration: Registration) -> None:
        """This instance serves, in place of whatever was said of it before. Saying it again costs nothing."""

    def update(self, registration: Registration) -> None:
        """The process that is registered has other endpoints, another port or other metadata.

        Ignored when another process of the instance, or none, is registered here: it ended in the meantime,
        and an update must not bring it back.
        """

    def deregister(self, service: str, instance: str, process: Process | None = None) -> None:
        """Take the instance out now, whoever registered it; with `process`, only while the registration is
        that process's (R2): the death of an old process does not take out its successor.
        """

    def held(self) -> Mapping[str, Registration]:
        """By instance, in order: what stands in the store by this registry's own, acknowledged writes."""

    def holds(self, instance: str) -> bool:
        """Whether it stands everywhere that this back end keeps registrations."""

    @property
    def trouble(self) -> str:
        """What is not as it should be although the store is there, and what to do; empty: nothing. A host
        whose Consul agent is gone, for one.
        """

    async def run(self) -> None:
        """Until cancelled or closed: write what was asked for, keep it alive, put again what the store lost.

        What was lost is noticed within one keep-alive interval. An owner that is gone without `close` leaves
        discovery by itself: within the TTL and the store's `expiry_bound_s` on leased keys, after the checks'
        deadline on Consul.

        A store that is away, a lost lease or a registration that the store refuses is reported once and tried
        again; the other registrations are kept. Anything but an HftctlError is a defect and is raised.
        """

    async def close(self) -> None:
        """Take back everything that is held, for good: later calls are ignored.

        Raises:
            Unavailable: no answer; what is held leaves by itself, as after the owner's death.
        """
