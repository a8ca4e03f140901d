"""The options that many verbs share, each declared once: `-o`, `--site-dir`, `--timeout`, `--site`. The first
three may also stand before the verb (`hftctl -o json status`), which then takes them as its defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

from controlplane.cli.declare import Option
from controlplane.cli.output import ASK_TIMEOUT_S as ASK_TIMEOUT_S
from controlplane.cli.output import Output as Output
from controlplane.errors import InvalidInput

_OUTPUT = ("--output", "-o")
_SITE_DIR = "--site-dir"
_TIMEOUT = "--timeout"

OutputOption = Annotated[Output, Option(*_OUTPUT, help="How to print: table, json or yaml.")]
SiteDirOption = Annotated[
    Optional[Path],
    Option(
        _SITE_DIR,
        help="Where the floor keeps data, logs and journals (HFT_SITE_DIR; default under XDG_STATE_HOME).",
    ),
]
AskTimeoutOption = Annotated[float, Option(_TIMEOUT, min=0.1, help="Seconds to wait for an answer.")]
StoreEndpointsOption = Annotated[
    Optional[str],
    Option(
        "--store-endpoints",
        envvar="HFT_STORE_ENDPOINTS",
        help="Use the store that answers at HOST:PORT[,HOST:PORT...] (or consul://... or etcd://...), and "
        "bring none along.",
    ),
]
StoreTokenOption = Annotated[
    Optional[Path],
    Option("--store-token", envvar="HFT_STORE_TOKEN", help="File with Consul's token."),
]
StoreCaOption = Annotated[
    Optional[Path],
    Option("--store-ca", envvar="HFT_STORE_CA", help="File with the authority of the store's certificate."),
]
StoreCertOption = Annotated[
    Optional[Path],
    Option("--store-cert", envvar="HFT_STORE_CERT", help="File with the certificate to show to the store."),
]
StoreKeyOption = Annotated[
    Optional[Path], Option("--store-key", envvar="HFT_STORE_KEY", help="File with that certificate's key.")
]
StoreUserOption = Annotated[
    Optional[str], Option("--store-user", envvar="HFT_STORE_USER", help="User of etcd.")
]
StorePasswordOption = Annotated[
    Optional[Path],
    Option("--store-password", envvar="HFT_STORE_PASSWORD", help="File with that user's password."),
]
SiteOption = Annotated[str, Option("--site", envvar="HFT_SITE", help="Name of the site.")]

_BEFORE = "For the verb that follows."
BEFORE: dict[str, Any] = {
    "output": Annotated[Optional[Output], Option(*_OUTPUT, help=_BEFORE)],
    "site_dir": Annotated[Optional[Path], Option(_SITE_DIR, help=_BEFORE)],
    "timeout": Annotated[Optional[float], Option(_TIMEOUT, min=0.1, help=_BEFORE)],
}
"""By the name of the verb's own parameter."""

SIDES = ("file", "store")
SettingsOption = Annotated[
    str,
    Option(
        "--settings",
        help="Whose value a setting has that was changed in the file and in the store: file or store.",
    ),
]


def require_side(settings: str) -> None:
    """Raises InvalidInput."""
    if settings not in ("", *SIDES):
        raise InvalidInput(f'--settings: found "{settings}", wanted {" or ".join(SIDES)}')
