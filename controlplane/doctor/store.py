"""The store: does it answer, how fast does it write, is its cluster whole, what is known against its
release."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median, quantiles

from controlplane.doctor import versions
from controlplane.doctor.finding import Finding
from controlplane.errors import HftctlError
from controlplane.floor import etcd_versions
from controlplane.leadership import budget
from controlplane.site import store_troubles
from controlplane.store import Health, Keys, Store, endpoint

WRITES = 40
TEST_KEY = "doctor"
"""Under the site's root; put and deleted."""
SYNC_MS = 10.0
"""A write's p99 above this is a disk that is slow, or shared."""
PRODUCTION_MEMBERS = (3, 5, 7)


async def look(client: Store, keys: Keys, *, production: bool, profile: str) -> list[Finding]:
    """`profile`: of the leases. Raises nothing: what fails is a finding."""
    health = await client.health()
    subject = f"{health.kind} {', '.join(health.endpoints)}"
    if not health.healthy:
        return [
            Finding(
                "store.answers",
                "critical",
                subject,
                health.reason or "no answer",
                "a quorum that answers reads",
                f"look at the servers of {health.kind} and at the way to them",
            )
        ]
    found = [Finding("store.answers", "ok", subject, f"{health.version or 'version not shown'}")]
    found += of_version(health, subject)
    found += await _of_writes(client, keys, subject, profile)
    found += await _of_cluster(client, health, subject, production=production)
    return found


def of_version(health: Health, subject: str) -> Iterator[Finding]:
    """Pure."""
    version = etcd_versions.parse(health.version)
    if version is None:
        yield Finding("store.version", "info", subject, "it does not say its version", "a version")
        return
    known = list(versions.bugs(health.kind, (version.major, version.minor, version.patch)))
    for bug in known:
        yield Finding(
            "store.version",
            bug.severity,
            subject,
            f"{health.version}, in which {bug.what} ({bug.source})",
            f"{versions.wanted(bug)} or newer",
            f"upgrade {health.kind}, one server at a time",
        )
    if not known:
        yield Finding(
            "store.version", "ok", subject, f"{health.version}: no bug is known that touches hftctl"
        )


async def _of_writes(client: Store, keys: Keys, subject: str, profile: str) -> list[Finding]:
    key, took_ms = f"{keys.root}{TEST_KEY}", []
    try:
        for n in range(WRITES):
            before_s = time.monotonic()
            await client.put(key, str(n).encode())
            took_ms.append((time.monotonic() - before_s) * 1000)
        await client.delete(key)
    except HftctlError as exc:
        return [
            Finding(
                "store.writes",
                "critical",
                subject,
                f"a write failed: {exc}",
                "writes under the site's keys",
                "its rights (docs/operations.md says which), its space, its quorum",
            )
        ]
    return list(of_latency(took_ms, subject, profile))


def of_latency(took_ms: Sequence[float], subject: str, profile: str) -> Iterator[Finding]:
    """Pure. The second finding is the lease inequality (rule R1) with what a write takes here."""
    p50, p99 = median(took_ms), quantiles(took_ms, n=100, method="inclusive")[98]
    said = f"a write takes {p50:.1f} ms, one in a hundred {p99:.1f} (of {len(took_ms)})"
    slow = p99 > SYNC_MS
    yield Finding(
        "store.writes",
        "warning" if slow else "ok",
        subject,
        said,
        f"below {SYNC_MS:g} ms",
        "a disk of its own (NVMe) for the store, no voter on a host that trades" if slow else "",
    )
    parts = budget.profile(profile)
    need_s, left_s = parts.renew_every_s + 2 * p99 / 1000, parts.renew_deadline_s
    tight = need_s > left_s / 2
    yield Finding(
        "lease.budget",
        ("critical" if need_s >= left_s else "warning") if tight else "ok",
        f'profile "{profile}"',
        f"a renewal every {parts.renew_every_s * 1000:.0f} ms, and two slow writes, take {need_s * 1000:.0f} "
        f"ms of the {left_s * 1000:.0f} after which a leader stops; lease {parts.lease_s:g} s, margin "
        f"{parts.margin_s * 1000:.0f} ms",
        "at most half",
        'a faster store, or the profile "safe"' if tight else "",
    )


async def _of_cluster(client: Store, health: Health, subject: str, *, production: bool) -> list[Finding]:
    try:
        condition = await client.condition()
    except HftctlError as exc:
        return [Finding("store.cluster", "info", subject, f"not known: {exc}", "rights to ask its members")]
    looked = Health(health.kind, health.endpoints, True, health.version, None, "", condition)
    troubles = store_troubles.Judge().look(looked, 0.0)
    found = [
        Finding(each.id, each.severity, subject, each.text, "a cluster that is whole", "as said")
        for each in troubles
    ]
    if not troubles:
        size = store_troubles.size_of(condition.size_bytes, condition.size_max_bytes)
        found.append(
            Finding(
                "store.cluster",
                "ok",
                subject,
                f"{condition.answering} of {condition.size} servers answer, led by {condition.leader}; "
                f"{size}",
            )
        )
    return found + list(
        of_redundancy(health.kind, health.endpoints, condition.size, subject, production=production)
    )


def of_redundancy(
    kind: str, endpoints: Sequence[str], size: int, subject: str, *, production: bool
) -> Iterator[Finding]:
    """Pure. `size`: of the cluster."""
    if size not in PRODUCTION_MEMBERS:
        yield Finding(
            "store.members.count",
            "critical" if production else "info",
            subject,
            f"{size} server{'s' if size != 1 else ''}: "
            + (
                "its loss stops everything"
                if size == 1
                else "an even number stands no more losses than one less"
            ),
            "3 or 5 servers in production",
            f"add servers to {kind}" if production else "",
        )
    hosts = {each.rpartition(":")[0] for each in endpoints if not each.startswith(endpoint.SOCKET)}
    if size > 1 and len(endpoints) > 1 and len(hosts) < len(endpoints):
        yield Finding(
            "store.members.apart",
            "critical" if production else "warning",
            subject,
            f"{len(endpoints)} endpoints on {len(hosts)} machine{'s' if len(hosts) != 1 else ''}",
            "each server on a machine of its own, none of which trades",
            f"move servers of {kind}",
        )
