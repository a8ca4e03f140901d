"""`hftctl backup [FILE]` and `hftctl restore FILE`: everything under the site's prefix, out of a store and
into one of either kind.

The store is that of the floor that runs here; with a floor that is down, the one that --store-endpoints or
HFT_STORE_ENDPOINTS names, else the floor's own, which is started for the time of it. Exit codes: 0 done, 1
refused (there is nothing to back up), 2 a file that is cut, edited or newer, or a site that runs, 3 store
unreachable; after a restore that was cut off, nothing starts until it is run again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from controlplane.cli import render, stderr
from controlplane.cli.declare import Argument, Option
from controlplane.cli.options import (
    Output,
    OutputOption,
    SiteDirOption,
    StoreCaOption,
    StoreCertOption,
    StoreEndpointsOption,
    StoreKeyOption,
    StorePasswordOption,
    StoreTokenOption,
    StoreUserOption,
)
from controlplane.cli.up import existing_store
from controlplane.floor import folders
from controlplane.floor.embedded import KINDS as STORES

if TYPE_CHECKING:
    from controlplane.floor.backups import Wanted

SiteOption = Annotated[
    Optional[str],
    Option("--site", envvar="HFT_SITE", help="Name of the site; that of the floor if left out."),
]
KindOption = Annotated[
    Optional[str],
    Option(
        "--store", help=f"The floor's own store of this kind, with a floor that is down: {', '.join(STORES)}."
    ),
]


def backup(
    file: Annotated[
        Optional[Path], Argument(help="Where to; SITE_DIR/backups/SITE-TIME.hftbackup if left out.")
    ] = None,
    site: SiteOption = None,
    store: KindOption = None,
    store_endpoints: StoreEndpointsOption = None,
    store_token: StoreTokenOption = None,
    store_ca: StoreCaOption = None,
    store_cert: StoreCertOption = None,
    store_key: StoreKeyOption = None,
    store_user: StoreUserOption = None,
    store_password: StorePasswordOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Write everything that the store holds of the site to a file."""
    from controlplane.floor import backups

    files = _files(store_token, store_ca, store_cert, store_key, store_password)
    wanted = _wanted(site, store, store_endpoints, files, store_user)
    floor = folders.Folders(site_dir or folders.default_site_dir())
    taken, path = backups.back_up(floor, wanted, file and file.absolute(), _aside)
    for each in taken.left_out:
        stderr.say(f"left out: {each}")
    if output is Output.table:
        out_of = f"out of {taken.header.store_kind} at revision {taken.header.revision}"
        render.say(f'{path}: {taken.records} keys of site "{taken.header.site}", {out_of}')
    else:
        render.show(
            {
                "file": str(path),
                "site": taken.header.site,
                "records": taken.records,
                "revision": taken.header.revision,
                "incarnation": taken.header.incarnation,
                "store": taken.header.store_kind,
                "taken_at": taken.header.taken_at,
                "left_out": list(taken.left_out),
            },
            output,
        )
    return 0


def restore(
    file: Annotated[Path, Argument(help="A file that `hftctl backup` wrote.")],
    force: Annotated[
        bool, Option("--force", help="Though the site runs, or the store or this folder has another floor.")
    ] = False,
    reason: Annotated[str, Option("--reason", help="Why; kept with the operation.")] = "",
    site: SiteOption = None,
    store: KindOption = None,
    store_endpoints: StoreEndpointsOption = None,
    store_token: StoreTokenOption = None,
    store_ca: StoreCaOption = None,
    store_cert: StoreCertOption = None,
    store_key: StoreKeyOption = None,
    store_user: StoreUserOption = None,
    store_password: StorePasswordOption = None,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Make the site be what a backup says, in a store of either kind."""
    import os

    from controlplane.floor import backups

    os.umask(0o077)  # as `up`: a restore may be what makes the site folder
    files = _files(store_token, store_ca, store_cert, store_key, store_password)
    wanted = _wanted(site, store, store_endpoints, files, store_user)
    floor = folders.Folders(site_dir or folders.default_site_dir())
    path = file.absolute()
    why = reason or f"hftctl restore {file}"
    done, place = backups.put_back(floor, wanted, path, _aside, force=force, reason=why)
    if output is Output.table:
        begin = "the floor goes on with it" if place.runs else "hftctl up starts the floor on it"
        removed = f", {done.removed} others removed" if done.removed else ""
        render.say(
            f'{file}: {done.records} keys of site "{place.site}" put back into {place.kind}{removed}; '
            f"incarnation {done.incarnation} (operation {done.operation}); {begin}"
        )
    else:
        render.show(
            {
                "file": str(path),
                "site": place.site,
                "records": done.records,
                "removed": done.removed,
                "incarnation": done.incarnation,
                "operation": done.operation,
                "store": place.kind,
            },
            output,
        )
    return 0


def _files(
    token: Path | None, ca: Path | None, cert: Path | None, key: Path | None, password: Path | None
) -> dict[str, Path | None]:
    return {
        "token_file": token,
        "ca_file": ca,
        "cert_file": cert,
        "key_file": key,
        "password_file": password,
    }


def _wanted(
    site: str | None,
    kind: str | None,
    endpoints: str | None,
    files: dict[str, Path | None],
    user: str | None,
) -> Wanted:
    """Raises InvalidInput: what was given does not fit together."""
    from controlplane.floor import backups, embedded

    if kind is not None:
        embedded.named(kind)
    return backups.Wanted(site, kind, existing_store(endpoints, files, user))


def _aside(text: str) -> None:
    """What goes on, beside what is answered."""
    stderr.say(text)
