"""Which Host headers a TCP listener answers. Pure.

A page in a browser can have its own name resolve to 127.0.0.1 (DNS rebinding) and then read answers as its
own origin; the browser still sends that name as Host. So a name must be one that we know. An address is
always fine: nobody can make a browser believe that a page came from there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Set

LOCAL = "localhost"


def admitted(host: str, names: Set[str]) -> bool:
    """`names` in lower case, without ports."""
    name = _without_port(host.strip()).lower().removesuffix(".")
    return name == LOCAL or name in names or _is_address(name)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
