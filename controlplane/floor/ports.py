"""TCP ports that a floor asks for by number: looked at before anything is started or changed, so that one in
use is an error of the command line and not of a daemon ten seconds later.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from controlplane.errors import InUse
from controlplane.floor.run_file import RunFile
from controlplane.model import ServiceSpec


def of_http(run: RunFile) -> Sequence[int]:
    """Of the controller and of each host's agent; none when any free one will do."""
    return range(run.http_port, run.http_port + 1 + len(run.hosts)) if run.http_port else ()


def require_free_health_ports(
    file: str, wanted: Collection[ServiceSpec], run: RunFile, before: Collection[ServiceSpec] = ()
) -> None:
    """Those of the wanted services that the ones before have not had. `file`: where to choose others.

    Raises:
        InUse: names port and instance.
    """
    had = {port for spec in before for _, port in spec.health_ports()}
    for spec in wanted:
        for slot, port in spec.health_ports():
            hint = f"health_port of {slot.instance}; choose another for {spec.name} in {file}"
            if port in of_http(run):
                raise InUse(f"port 127.0.0.1:{port}: asked for by --http-port and by the {hint}")
            if port not in had:
                require_free(port, hint)


def require_free(port: int, hint: str) -> None:
    """Raises InUse naming the port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as exc:
            raise InUse(f"port 127.0.0.1:{port}: {exc.strerror} ({hint})") from exc
