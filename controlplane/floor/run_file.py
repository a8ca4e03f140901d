"""run.json: which processes hft-floord shall run. `hftctl up` is its one writer, hft-floord its reader.

No service stands in it: what the hosts' agents start is in the store, and only specs/apply.py writes that.
While `hosts` is empty, hft-floord runs the store alone; `up` names the hosts once the services are applied,
so that no agent starts what an earlier floor had left in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane import model
from controlplane.errors import InvalidInput
from controlplane.floor import embedded
from controlplane.floor import folders as site_folders
from controlplane.floor.folders import Folders
from controlplane.host import files

EARLIER_STORE = "etcd"
"""The only kind that floors with a desired.json had."""


@dataclass(frozen=True, slots=True)
class RunFile:
    site: str
    hosts: tuple[str, ...] = ()
    """Whose agents run. A floor that runs gets no other hosts: they have to come up with it."""
    http_port: int = 0
    """TCP port of the controller's HTTP, the agents' on the next ones; 0: any free."""
    store: str = embedded.DEFAULT
    """Kind of the store: which to embed (embedded.py), or what answers at `store_url`."""
    services_file: str = ""
    """For `up` itself, as is the next field: a bare `up` reads this file again."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by daemon given on `up`'s command line (--tape, --speed, --seed), over those of the file."""
    journal_dir: str | None = None
    """Where omsd's journals are, for every start of an agent, whatever the environment of the `up` that made
    it: "" in the site folder. None: as the environment says (of an earlier hftctl)."""
    store_url: str = ""
    """Of a store that is there already (store/existing.py); empty: one is embedded."""


def read(folders: Folders) -> RunFile | None:
    """What was to run last, or None when nothing was. A floor of an earlier hftctl left a desired.json, which
    says the same and its services too.

    Raises:
        InvalidInput: the file is there and is not ours.
    """
    for path in (folders.run_json, folders.desired_json):
        try:
            content = files.read_regular(path)
            if path == folders.desired_json:
                return _of_earlier(content)
            return model.decode(RunFile, content)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.MsgspecError) as exc:
            raise InvalidInput(
                f"{path}: not as `hftctl up` writes it: {exc}; move it away, and `hftctl up --services FILE` "
                "writes it anew"
            ) from exc
    return None


class _Service(msgspec.Struct):
    hosts: tuple[str, ...]


class _Desired(msgspec.Struct):
    """desired.json of the first floors."""

    site: str
    services_file: str
    overrides: dict[str, dict[str, Any]] = {}
    specs: tuple[_Service, ...] = ()
    http_port: int = 0


def _of_earlier(content: bytes) -> RunFile:
    found = model.decode(_Desired, content)
    hosts = tuple(sorted({host for service in found.specs for host in service.hosts}))
    return RunFile(found.site, hosts, found.http_port, EARLIER_STORE, found.services_file, found.overrides)


def write(folders: Folders, run: RunFile) -> None:
    site_folders.write_atomically(folders.run_json, msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    folders.desired_json.unlink(missing_ok=True)  # of an earlier hftctl; two files would be two truths
