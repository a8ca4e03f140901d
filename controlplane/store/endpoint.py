"""Where a store answers: "HOST:PORT", or "unix:/ABSOLUTE/PATH" for a socket that its folder keeps from
everybody but its owner. Pure.
"""

from __future__ import annotations

from urllib.parse import unquote

from controlplane.errors import InvalidSettings

SOCKET = "unix:"
SHOWN_MAX = 80
"""Characters of what is no endpoint, in the message."""
SOCKET_PATH_MAX = 107
"""Bytes of an AF_UNIX path, unix(7)."""
_LOOPBACK = ("127.", "localhost:", "[::1]:", "::1:")


def parse_endpoint(text: str) -> str:
    """The endpoint in its one spelling, as grpc takes it. Raises InvalidSettings: it is none."""
    found = text.strip().removeprefix("http://").removeprefix("https://")
    if found.startswith(SOCKET):
        path = found.removeprefix(SOCKET)
        if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
            raise InvalidSettings(f'store endpoint "{found}": wanted unix:/ABSOLUTE/PATH')
        if (size := len(path.encode())) > SOCKET_PATH_MAX:
            raise InvalidSettings(
                f'store endpoint "{found[:SHOWN_MAX]}...": the path has {size} bytes; '
                f"a socket's may have {SOCKET_PATH_MAX}"
            )
        return found
    host, _, port = found.rpartition(":")
    if not host or not _port(port):
        raise InvalidSettings(
            f'store endpoint "{found[:SHOWN_MAX]}": wanted HOST:PORT or unix:/ABSOLUTE/PATH'
        )
    return found


def _port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len("65535") and 0 < int(text) <= 65_535


def on_this_machine(endpoint: str) -> bool:
    """A socket, or a port of loopback: what is said there does not leave the machine."""
    return endpoint.startswith((SOCKET, *_LOOPBACK))


def split(where: str) -> tuple[str, list[str], dict[str, str]]:
    """Kind, endpoints and options of "KIND://ENDPOINT[,ENDPOINT...][?OPTION=FILE[&...]]"; the kind is empty
    where none is named. Options are quoted as in any URL.
    """
    address, _, query = where.partition("?")
    kind, found, rest = address.partition("://")
    options = {
        name: unquote(value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)
    }
    return (kind if found else ""), (rest if found else kind).rstrip("/").split(","), options


IDENTITIES = ("user", "token_file", "cert_file")
"""Options with which a client shows who it is."""


def unguarded(where: str) -> list[str]:
    """The endpoints of a store's URL that are TCP ports and are asked without any identity: every user of
    the machine that they are on can speak to them.
    """
    kind, endpoints, options = split(where)
    if kind == "memory" or any(options.get(name) for name in IDENTITIES):
        return []
    return [each for each in endpoints if not each.startswith(SOCKET)]
