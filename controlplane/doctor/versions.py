"""Known bugs of etcd and Consul that touch what hftctl rests on, by the release that has them mended. Pure.

Sources are upstream's own: issues of etcd-io/etcd by number and its CHANGELOGs, the release notes of Consul.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Series = tuple[int, int]
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Bug:
    source: str
    severity: str
    what: str
    since: Series
    """The first series that has it."""
    mended: Mapping[Series, int]
    """Series -> the patch that has it mended. A series in between that is not named never got it; one after
    the last never had it."""


ETCD: tuple[Bug, ...] = (
    Bug(
        "etcd PR 13908, CHANGELOG-3.5",
        "critical",
        "members can come to hold different data when one is killed, and acknowledged writes be lost",
        (3, 5),
        {(3, 5): 3},
    ),
    Bug(
        "etcd PRs 14423 and 14424, CHANGELOG-3.4 and -3.5",
        "critical",
        "a cluster of one can lose acknowledged writes",
        (3, 0),
        {(3, 4): 21, (3, 5): 5},
    ),
    Bug(
        "etcd PR 14733, CHANGELOG-3.5",
        "warning",
        "revisions of the members can differ when one is killed during a defragmentation",
        (3, 5),
        {(3, 5): 6},
    ),
    Bug(
        "etcd issue 15247, PR 17425, CHANGELOG-3.5",
        "warning",
        "a leader that a slow disk has cost its place can still end leases: registrations vanish",
        (3, 5),
        {(3, 5): 13},
    ),
    Bug(
        "etcd PR 17612, CHANGELOG-3.5",
        "warning",
        "a watch can miss events over a compaction",
        (3, 5),
        {(3, 5): 13},
    ),
    Bug(
        "etcd issue 20616",
        "warning",
        "a lease can be renewed that was revoked: a registration stands for longer than its owner",
        (3, 5),
        {(3, 5): 23, (3, 6): 5},
    ),
    Bug(
        "etcd issue 20418",
        "warning",
        "a member that was paused can answer a consistent read with what is old",
        (3, 4),
        {(3, 5): 28, (3, 6): 9},
    ),
)
CONSUL: tuple[Bug, ...] = (
    Bug(
        "Consul 1.14.0, its transaction limit",
        "critical",
        "transactions take 64 operations, and a compare is one of them",
        (1, 0),
        {(1, 14): 0},
    ),
)


def bugs(kind: str, version: Version) -> Iterator[Bug]:
    """Those that this release has."""
    for bug in {"etcd": ETCD, "consul": CONSUL}.get(kind, ()):
        series = version[:2]
        if not bug.since <= series <= max(bug.mended):
            continue
        if version[2] < bug.mended.get(series, 1 << 30):
            yield bug


def wanted(bug: Bug) -> str:
    return " or ".join(f"{major}.{minor}.{patch}" for (major, minor), patch in sorted(bug.mended.items()))
