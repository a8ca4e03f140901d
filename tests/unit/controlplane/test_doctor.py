"""What the doctor makes of what it finds."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from controlplane.doctor import certificates, finding, folders, machine, site, store, versions
from controlplane.doctor.finding import Finding
from controlplane.floor.folders import Folders
from controlplane.model.observed import HostRecord
from controlplane.store import Health

NOW_NS = 1_800_000_000_000_000_000


def by_id(found: list[Finding]) -> dict[str, list[Finding]]:
    rows: dict[str, list[Finding]] = {}
    for each in found:
        rows.setdefault(each.id, []).append(each)
    return rows


def health(kind: str, version: str) -> Health:
    return Health(kind, ("10.0.0.1:2379",), True, version, 1.0)


@pytest.mark.parametrize(
    ("kind", "version", "worst", "said"),
    [
        ("etcd", "3.5.1", "critical", "13908"),
        ("etcd", "3.5.4", "critical", "14424"),
        ("etcd", "3.5.12", "warning", "17425"),
        ("etcd", "3.4.20", "critical", "14423"),
        ("etcd", "3.4.23", "warning", "20418"),
        ("etcd", "3.6.4", "warning", "20616"),
        ("etcd", "3.5.28", "ok", "no bug is known"),
        ("etcd", "3.6.16", "ok", "no bug is known"),
        ("etcd", "3.7.3", "ok", "no bug is known"),
        ("consul", "1.8.7", "critical", "64 operations"),
        ("consul", "1.19.2", "ok", "no bug is known"),
        ("consul", "", "info", "does not say"),
    ],
)
def test_a_release_is_judged_by_the_bugs_that_it_has(kind: str, version: str, worst: str, said: str) -> None:
    found = list(store.of_version(health(kind, version), "there"))
    assert finding.worst(found) == worst
    assert any(said in each.found for each in found)
    for each in found:
        assert each.severity in ("ok", "info") or (each.wanted and each.remedy)


def test_every_known_bug_names_its_source_and_a_release_without_it() -> None:
    for bug in (*versions.ETCD, *versions.CONSUL):
        assert bug.source and bug.mended and bug.severity in finding.SEVERITIES
        series, patch = max(bug.mended.items())
        kind = "etcd" if bug in versions.ETCD else "consul"
        assert bug not in list(versions.bugs(kind, (*series, patch)))


@pytest.mark.parametrize(
    ("took_ms", "writes", "lease"),
    [
        (1.0, "ok", "ok"),
        (40.0, "warning", "ok"),
        (200.0, "warning", "warning"),
        (700.0, "warning", "critical"),
    ],
)
def test_the_lease_inequality_is_judged_with_what_a_write_takes(
    took_ms: float, writes: str, lease: str
) -> None:
    found = by_id(list(store.of_latency([took_ms] * 40, "there", "default")))
    assert found["store.writes"][0].severity == writes
    assert found["lease.budget"][0].severity == lease


@pytest.mark.parametrize(
    ("size", "production", "severity"),
    [(1, True, "critical"), (1, False, "info"), (2, True, "critical"), (3, True, None), (5, True, None)],
)
def test_a_store_of_one_is_critical_in_production(size: int, production: bool, severity: str | None) -> None:
    found = list(store.of_redundancy("etcd", ["10.0.0.1:2379"], size, "there", production=production))
    assert [each.severity for each in found] == ([severity] if severity else [])


def test_servers_on_one_machine_are_seen_by_their_endpoints() -> None:
    endpoints = ["10.0.0.1:2379", "10.0.0.1:2479", "10.0.0.2:2379"]
    (found,) = store.of_redundancy("etcd", endpoints, 3, "there", production=True)
    assert (found.id, found.severity) == ("store.members.apart", "critical")
    assert "3 endpoints on 2 machines" in found.found


def host(name: str, url: str, updated_ns: int = NOW_NS, boot: str = "b") -> HostRecord:
    return HostRecord(name, "127.0.0.1", url, "", boot, updated_ns)


def test_two_agents_of_one_name_are_seen_to_take_turns_and_a_restarted_one_is_none() -> None:
    one, two = host("alpha", "http://h:1"), host("alpha", "http://h:2")
    (turns,) = site.of_agents({"alpha": [one, two, one]})
    assert turns.severity == "critical" and "http://h:1, http://h:2" in turns.found
    (restarted,) = site.of_agents({"alpha": [one, two]})
    assert restarted.severity == "ok"


def test_a_host_whose_clock_is_off_is_named_and_the_others_are_not() -> None:
    def seen(name: str, behind_s: float) -> list[tuple[HostRecord, int]]:
        record = host(name, "http://h:1", NOW_NS - int(behind_s * 1e9))
        return [(record, NOW_NS), (replace(record, state="up "), NOW_NS)]

    rows = {"alpha": seen("alpha", 0.0), "beta": seen("beta", 0.3), "gamma": seen("gamma", 30.0)}
    found = {each.subject: each for each in site.of_clocks(rows)}
    assert (found["alpha"].severity, found["beta"].severity) == ("ok", "ok")
    assert found["gamma"].severity == "critical" and "29.0 s away" in found["gamma"].found


def test_folders_and_files_that_others_may_reach_are_named(tmp_path: Path) -> None:
    site_dir = tmp_path / "site"
    site_dir.mkdir(mode=0o700)
    (site_dir / "run.json").write_text("{}")
    (site_dir / "run.json").chmod(0o644)
    floor = Folders(site_dir)
    well = by_id(folders.look(floor))
    assert well["folder.modes"][0].severity == "ok", "nobody comes through the folder"
    site_dir.chmod(0o755)
    found = by_id(folders.look(floor))["folder.modes"][0]
    assert (
        found.severity == "critical"
        and f"{site_dir} (0755)" in found.found
        and "run.json (0644)" in found.found
    )
    assert found.remedy == f"chmod -R go= {site_dir}"


def test_what_a_dead_floor_has_left_is_told(tmp_path: Path) -> None:
    floor = Folders(tmp_path)
    tmp_path.chmod(0o700)
    assert "floor.leftovers" not in by_id(folders.look(floor))
    floor.floor_json.write_text("{}")
    assert str(floor.floor_json) in by_id(folders.look(floor))["floor.leftovers"][0].found


def test_a_folder_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    (found,) = folders.look(Folders(tmp_path / "nothing"))
    assert found.severity == "info"


def test_room_is_judged_and_a_place_that_cannot_be_looked_at_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, severity in ((10 << 30, "ok"), (1 << 30, "warning"), (1 << 20, "critical")):
        usage = machine.shutil._ntuple_diskusage(100 << 30, 0, free)  # type: ignore[attr-defined]
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert next(machine.of_disks({"data": tmp_path})).severity == severity
    monkeypatch.undo()
    assert next(machine.of_disks({"data": tmp_path / "gone"})).severity == "info"


def test_the_kernels_limits_are_read_from_a_copy_of_proc(tmp_path: Path) -> None:
    for name, value in (
        ("kernel/sched_rt_runtime_us", "100000"),
        ("kernel/sched_rt_period_us", "1000000"),
        ("kernel/pid_max", "4096"),
        ("vm/swappiness", "60"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    found = {each.id: each.severity for each in machine.of_kernel(tmp_path)}
    assert found == {"kernel.rt_runtime": "warning", "kernel.pid_max": "warning", "kernel.swappiness": "info"}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff\x00" if path.name == "pid_max" else b"")
    assert list(machine.of_kernel(tmp_path)) == []


@pytest.mark.parametrize(
    ("days", "severity"), [(400, "ok"), (20, "warning"), (2, "critical"), (-1, "critical")]
)
def test_a_certificate_is_judged_by_the_days_it_has_left(days: int, severity: str) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    begins, ends = now - datetime.timedelta(days=500), now + datetime.timedelta(days=days)
    assert certificates.of_dates("x.pem", begins, ends, now).severity == severity


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    good, none = tmp_path / "good.pem", tmp_path / "none.pem"
    trustme.CA().cert_pem.write_to_path(good)
    none.write_bytes(b"\xff")
    found = {each.subject: each.severity for each in certificates.look([good, none, tmp_path / "gone.pem"])}
    assert found == {str(good): "ok", str(none): "critical", str(tmp_path / "gone.pem"): "critical"}


def test_the_document_has_the_worst_first() -> None:
    rows = [
        Finding("a", "ok", "x", "y"),
        Finding("b", "critical", "x", "y"),
        Finding("c", "warning", "x", "y"),
    ]
    document = finding.document(rows)
    assert document["worst"] == "critical"
    assert [row["id"] for row in document["findings"]] == ["b", "c", "a"]  # type: ignore[attr-defined]
    assert list(document["findings"][0]) == ["id", "severity", "subject", "found", "wanted", "remedy"]  # type: ignore[index]
    assert finding.document([])["worst"] == "ok"
