"""A store that is there already, as an operator names it: its endpoints, and a file for each thing that a
client has to show. `url` checks all of it and makes the address that `store.connect` takes, in which no
secret is: only where the secrets are.
"""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from controlplane.errors import InvalidInput
from controlplane.host import files
from controlplane.store import endpoint

KINDS = ("etcd", "consul")
OPTIONS = ("token_file", "ca_file", "cert_file", "key_file", "password_file")
"""Of a store's address: each names a file, so that no secret is in it."""
SECRET = ("token_file", "key_file", "password_file")
ENDPOINTS = "HFT_STORE_ENDPOINTS"
OF_ENVIRONMENT = {
    "token_file": "HFT_STORE_TOKEN",
    "ca_file": "HFT_STORE_CA",
    "cert_file": "HFT_STORE_CERT",
    "key_file": "HFT_STORE_KEY",
    "password_file": "HFT_STORE_PASSWORD",
}
USER = "HFT_STORE_USER"


@dataclass(frozen=True, slots=True)
class Existing:
    endpoints: str
    """HOST:PORT[,HOST:PORT...], unix:/PATH, or the same behind etcd:// or consul://."""
    files: Mapping[str, Path]
    """By the names of OPTIONS."""
    user: str = ""
    """Of etcd; its password is in `password_file`."""


def of_environment(environ: Mapping[str, str] = os.environ) -> Existing | None:
    """What HFT_STORE_ENDPOINTS and the variables beside it say; None: nothing."""
    if not (endpoints := environ.get(ENDPOINTS, "")):
        return None
    files = {
        name: Path(environ[variable]) for name, variable in OF_ENVIRONMENT.items() if environ.get(variable)
    }
    return Existing(endpoints, files, environ.get(USER, ""))


def url_of_environment(environ: Mapping[str, str] = os.environ) -> str | None:
    """The address that the environment gives, None when it gives none. Raises as `url`."""
    given = of_environment(environ)
    return None if given is None else url(given)


def add_argument(parser: argparse.ArgumentParser) -> None:
    """`--store` of a daemon, which HFT_STORE_ENDPOINTS and the variables beside it may say instead."""
    said = url_of_environment()
    text = "KIND://HOST:PORT[,HOST:PORT...][?token_file=PATH...]; HFT_STORE_* instead"
    parser.add_argument("--store", default=said, required=said is None, help=text)


def url(given: Existing, kind: str | None = None) -> str:
    """The address for `store.connect`. `kind`: as said beside the endpoints, where they do not say it.

    Raises:
        InvalidInput: an endpoint that is none, a file that is missing, empty or readable by everybody, or
            things that do not fit together; with what was wanted.
    """
    said, endpoints, options = endpoint.split(given.endpoints)
    kind = _kind(said, kind)
    parsed = [endpoint.parse_endpoint(each) for each in endpoints if each.strip()]
    if not parsed:
        raise InvalidInput(
            f'store: found no endpoint in "{given.endpoints}", wanted HOST:PORT[,HOST:PORT...]'
        )
    named = dict(options)
    for name, path in given.files.items():
        named[name] = str(_readable(name, path))
    if given.user:
        named["user"] = given.user
    if kind == "etcd" and "token_file" in named:
        raise InvalidInput(
            "store: found a token, wanted a user and a password file, or a certificate: etcd knows no tokens"
        )
    if kind == "consul" and ("user" in named or "password_file" in named):
        raise InvalidInput("store: found a user or a password, wanted a token file: Consul knows no users")
    query = "&".join(f"{name}={quote(value)}" for name, value in sorted(named.items()))
    return f"{kind}://{','.join(parsed)}" + (f"?{query}" if query else "")


def _kind(said: str, wanted: str | None) -> str:
    """`said`: in front of the endpoints."""
    found = said if said not in ("", "http", "https") else (wanted or KINDS[0])
    if found not in KINDS or (wanted is not None and found != wanted):
        raise InvalidInput(
            f'store: found endpoints of "{found}"{f" and --store {wanted}" if wanted else ""}, wanted '
            f"{' or '.join(f'{each}://HOST:PORT' for each in KINDS)}"
        )
    return found


def _readable(name: str, path: Path) -> Path:
    """The absolute path: floor, agents and daemons have other working folders."""
    path = path.expanduser().absolute()
    what = f"store: {name.removesuffix('_file')} file {path}"
    try:
        content = files.read_regular(path)
        mode = path.stat().st_mode
    except OSError as exc:
        raise InvalidInput(f"{what}: found {exc.strerror}, wanted a file that this user may read") from exc
    if not content.strip():
        raise InvalidInput(
            f"{what}: found nothing in it, wanted a file with the {name.removesuffix('_file')}"
        )
    if name in SECRET and mode & stat.S_IROTH:
        raise InvalidInput(
            f"{what}: found mode {stat.S_IMODE(mode):04o}, which every user of this machine may read; wanted "
            "0600 (chmod 600)"
        )
    return path
