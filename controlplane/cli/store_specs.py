"""The services of a site whose floor is on other machines, for `apply` and `diff`: written in the store that
the environment names, and waited for by what its agents write there.

What the floor's `up` was given on its command line (--tape, --speed, --seed) is on that machine's disk: here
the file alone counts, and the plan shows what that would change.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane import store
from controlplane.cli import store_site
from controlplane.errors import InvalidInput
from controlplane.floor import wait
from controlplane.model import ServiceSpec
from controlplane.site import document, look
from controlplane.specs import read
from controlplane.store import Keys, Store


class Elsewhere:
    """As the floor of this machine (specs.py).

    Raises:
        InvalidInput: the file, or a host of it has no agent. FloorUnreachable: the store does not answer or
            has no such site.
    """

    def __init__(self, site: store_site.StoreSite, file: Path) -> None:
        self._site = site
        self.file = file
        self.keys: Keys = site.keys
        self.specs: Sequence[ServiceSpec] = read.read(file)
        hosts = site.hosts()
        if new := sorted({host for spec in self.specs for host in spec.hosts} - set(hosts)):
            raise InvalidInput(
                f"{file}: host {', '.join(new)} has no agent in site {self.keys.site} (it has "
                f"{', '.join(sorted(hosts)) or 'none now'}; hftctl up on that host starts one)"
            )

    def connect(self) -> Store:
        return store.connect(self._site.url)

    def require_free_ports(self, before: Sequence[ServiceSpec]) -> None:
        """Those of other machines are looked at by their agents, which raise an alarm."""

    def wait_healthy(self, revisions: Mapping[str, int], timeout_s: float) -> list[str]:
        """Why it is not healthy at the timeout, a line each; none: it is."""
        deadline_mono_s = time.monotonic() + timeout_s
        while True:
            status = self._site.status()
            if status.healthy and wait.as_applied(status, self.specs, revisions):
                return []
            if time.monotonic() > deadline_mono_s:
                return why_not(status)


def why_not(status: document.StatusDocument) -> list[str]:
    instances = [each for service in status.services for each in service.instances]
    lines = [
        f"{each.id}: {each.state}, {each.health}: {each.reason or 'no reason given'}"
        for each in instances
        if not look.well(each)
    ]
    return lines or [*status.reasons] or ["its agents have not taken all of it over yet; see hftctl status"]
