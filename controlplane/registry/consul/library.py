"""py-consul's client, set up by a store's address: for scripts, and for what Consul can do and hftctl has no
word for (nodes in maintenance, prepared queries, intentions). Synchronous, over TCP, off every path that
trades; what hftctl itself asks goes over store/consul (ADR 0037).
"""

from __future__ import annotations

from typing import Any

from controlplane import store as stores
from controlplane.errors import Denied, InvalidSettings
from controlplane.settings import StoreSettings
from controlplane.store.consul import ConsulStore


def client(where: str, settings: StoreSettings | None = None) -> Any:
    """A `consul.Consul` at the host's own agent of the store at `where`, with its token and TLS files.

    The token is read once. Its errors are requests' and consul.ConsulException; each call may take 30 s.

    Raises:
        InvalidSettings: the store is not Consul, or its agent answers on a unix socket, which py-consul does
        not speak. Denied: the token's file cannot be read.
    """
    import consul

    store = stores.connect(where, settings)
    if not isinstance(store, ConsulStore):
        raise InvalidSettings(f'"{where}": wanted consul://HOST:PORT')
    agent = store.agent
    address, found = agent.addresses[0], agent.settings
    if address.startswith("unix:"):
        raise InvalidSettings(
            f"{address}: py-consul asks over TCP alone (hftctl up --consul-ui opens a port)"
        )
    host, _, port = address.rpartition(":")
    made = consul.Consul(
        host=host,
        port=int(port),
        scheme="https" if found.ca_file else "http",
        verify=str(found.ca_file) if found.ca_file else True,
        cert=(str(found.cert_file), str(found.key_file)) if found.cert_file and found.key_file else None,
    )
    try:
        made.token = found.token_file.read_text().strip() if found.token_file else None
    except OSError as exc:
        raise Denied(f"store token: {found.token_file} cannot be read: {exc.strerror}") from exc
    return made
