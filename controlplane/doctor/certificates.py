"""Certificates that will not be good for much longer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from controlplane.doctor.finding import Finding

WARNING_DAYS, CRITICAL_DAYS = 30, 3


def look(paths: Iterable[Path], now: datetime | None = None) -> Iterator[Finding]:
    """PEM files, each of which may hold several."""
    from cryptography import x509

    now = now or datetime.now(UTC)
    for path in paths:
        try:
            found = x509.load_pem_x509_certificates(path.read_bytes())
        except OSError as exc:
            yield Finding("certificate", "critical", str(path), exc.strerror or str(exc), "a certificate")
            continue
        except ValueError as exc:
            yield Finding("certificate", "critical", str(path), f"no certificate in PEM: {exc}", "one")
            continue
        for certificate in found:
            yield of_dates(str(path), certificate.not_valid_before_utc, certificate.not_valid_after_utc, now)


def of_dates(subject: str, begins: datetime, ends: datetime, now: datetime) -> Finding:
    """Pure."""
    days = (ends - now).total_seconds() / 86_400
    if now < begins:
        return Finding(
            "certificate", "critical", subject, f"not good before {begins:%Y-%m-%d}: or this clock is wrong"
        )
    if days < 0:
        found, severity = f"ended on {ends:%Y-%m-%d}", "critical"
    else:
        found = f"good until {ends:%Y-%m-%d}, {days:.0f} days"
        severity = "critical" if days < CRITICAL_DAYS else "warning" if days < WARNING_DAYS else "ok"
    wanted = "" if severity == "ok" else f"more than {WARNING_DAYS} days"
    remedy = "" if severity == "ok" else "put a renewed one in its place: it is read again without a restart"
    return Finding("certificate", severity, subject, found, wanted, remedy)
