"""What the site's configuration is, for people and scripts: services with the revision that is wanted and
those that are in force, a service's document and its history, plain keys. Made of a view; pure.

The field names are JSON keys (`hftctl config ... -o json`): fields may be added, never renamed. Of a service
whose configuration was never changed, revision 1 is what its spec says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.errors import InvalidInput
from controlplane.model import config
from controlplane.model.config import FIRST_REVISION, ConfigRevision, PlainKey, RolloutRecord, ServiceConfig
from controlplane.site import look
from controlplane.site.view import SiteView

Row = dict[str, Any]
ROLLOUT_KIND = "config-rollout"
"""Of operations, as operations/config_change.py has it."""


def services(view: SiteView) -> list[Row]:
    """A row for each service of the site, without its document."""
    return [_head(view, name) for name in sorted(view.specs)]


def service(view: SiteView, name: str, revision: int | None = None) -> Row:
    """With the document: the one that is wanted, or that of a revision.

    Raises InvalidInput: no such service or revision; names those that there are.
    """
    known = view.specs.get(name)
    if known is None:
        there = ", ".join(sorted(view.specs)) or "none"
        raise InvalidInput(f'service "{name}" is not in site {view.site} (there are {there})')
    head = _head(view, name)
    if revision is None:
        found = revisions(view, name).get(head["revision"])
    else:
        found = of_revision(view, name, revision)
        head |= _made(found)
    return {
        "service": name,
        "revision": head["revision"],
        "document": None if found is None else dict(found.document),
        **head,
        "instances": _instances(view, name),
        "restart": sorted(known.settings if known.restart is None else known.restart),
        "changes_live": known.restart is not None,
    }


def history(view: SiteView, name: str) -> list[Row]:
    """The revisions that are kept, oldest first; of a service that was removed too. Raises InvalidInput.

    `base`: the revision that it changed, None where that is not kept; `taken_back`: its rollout was reverted,
    and the next one does not build on it.
    """
    rows: list[Row] = []
    base: int | None = None
    for each in _revisions(view, name).values():
        taken_back = _taken_back(view, each)
        rows.append(_made(each) | {"base": base, "taken_back": taken_back})
        if not taken_back:
            base = each.revision
    return rows


def _taken_back(view: SiteView, found: ConfigRevision) -> bool:
    """As far as the store still has the operation."""
    config = view.configs.get(found.service, ServiceConfig())
    if config.current is not None and found.revision > config.current.revision:
        return config.rollout is None or config.rollout.revision != found.revision
    return any(
        each.id == found.operation
        and each.kind == ROLLOUT_KIND
        and each.state in ("refused", "failed", "cancelled")
        for each in view.operations
    )


def of_revision(view: SiteView, name: str, revision: int) -> ConfigRevision:
    """Raises InvalidInput: it is not there; names those that are."""
    known = _revisions(view, name)
    if revision not in known:
        there = f"{min(known)} to {max(known)}" if len(known) > 1 else f"{next(iter(known), 'none')}"
        raise InvalidInput(f'service "{name}": found revision {revision}, wanted one that is kept ({there})')
    return known[revision]


def revisions(view: SiteView, name: str) -> Mapping[int, ConfigRevision]:
    """Those that are kept, oldest first; what services.yml said, where nothing was ever changed."""
    found = view.configs.get(name, ServiceConfig())
    spec = view.specs.get(name)
    if found.current is not None or found.revisions or spec is None:
        return found.revisions
    first = ConfigRevision(name, FIRST_REVISION, spec.settings, "services_file", "", "", 0)
    return {FIRST_REVISION: first}


def base(view: SiteView, name: str, revision: int) -> int:
    """The revision that this one changed; itself where that is not kept. Raises InvalidInput."""
    found = next((row["base"] for row in history(view, name) if row["revision"] == revision), None)
    return found or revision


def wanted(view: SiteView, name: str) -> int:
    """The revision that is wanted; in a rollout, of those instances that it has not reached."""
    current = view.configs.get(name, ServiceConfig()).current
    return FIRST_REVISION if current is None else current.revision


def keys(view: SiteView) -> list[Row]:
    """A row for each plain key."""
    return [_key(name, view.plain[name]) for name in sorted(view.plain)]


def key(view: SiteView, name: str) -> Row:
    """Raises InvalidInput: there is none of that name; names those that there are."""
    found = view.plain.get(name)
    if found is None:
        there = ", ".join(f"/{each}" for each in sorted(view.plain)) or "none"
        raise InvalidInput(f'key "/{name}" is not in site {view.site} (there are {there})')
    return _key(name, found)


def _revisions(view: SiteView, name: str) -> Mapping[int, ConfigRevision]:
    found = revisions(view, name)
    if name not in view.specs and not found:
        there = ", ".join(sorted({*view.specs, *view.configs})) or "none"
        raise InvalidInput(f'service "{name}" is not in site {view.site} (there are {there})')
    return found


def _head(view: SiteView, name: str) -> Row:
    rollout = view.configs.get(name, ServiceConfig()).rollout
    revision = wanted(view, name)
    made = revisions(view, name).get(revision)
    who: Row = {} if made is None else _made(made)
    return {
        "service": name,
        "revision": revision,
        "in_force": {row["id"]: row["in_force"] for row in _instances(view, name) if row["in_force"]},
        **{field: who.get(field) for field in ("at", "actor", "reason", "kind")},
        "rollout": None if rollout is None else _rollout(rollout),
    }


def _made(found: ConfigRevision) -> Row:
    return {
        "revision": found.revision,
        "at": look.iso(found.at_ns) if found.at_ns else None,
        "actor": found.actor,
        "reason": found.reason,
        "kind": found.kind,
        "operation": found.operation or None,
        "restored": found.restored or None,
    }


def _rollout(found: RolloutRecord) -> Row:
    return {
        "operation": found.operation,
        "revision": found.revision,
        "base": found.base,
        "stage": found.stage,
        "instances": list(found.instances),
        "actor": found.actor,
        "reason": found.reason,
        "began_at": look.iso(found.began_ns),
        "why": found.why,
    }


def _instances(view: SiteView, name: str) -> list[Row]:
    """In the order of the slots; `unknown` is one that no agent reports."""
    spec = view.specs.get(name)
    known = {each.id: each for record in view.hosts.values() for each in record.instances}
    found = view.configs.get(name, ServiceConfig())
    rows = []
    for slot in spec.slots() if spec is not None else ():
        status = known.get(slot.instance)
        rows.append(
            {
                "id": slot.instance,
                "host": slot.host,
                "state": "unknown" if status is None else status.state,
                "wanted": found.wanted_revision(slot.instance),
                "in_force": 0 if status is None else status.config_revision,
                "refused": "" if status is None else status.config_refused,
            }
        )
    return rows


def _key(name: str, found: PlainKey) -> Row:
    return {
        "key": name,
        "value": found.value,
        "type": "bool" if name == config.KILL_SWITCH else found.type,
        "actor": found.actor,
        "reason": found.reason,
        "at": look.iso(found.set_ns) if found.set_ns else None,
        "ttl_s": found.ttl_s,
    }
