"""run.json and floor.json: what `up` asks for and what hft-floord says, also as an earlier hftctl wrote
them; and which stores a floor can embed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controlplane.errors import InUse, InvalidInput
from controlplane.floor import embedded, ports, run_file
from controlplane.floor.folders import Folders
from controlplane.floor.run_file import RunFile
from controlplane.model import Mode, ServiceSpec

EARLIER = {
    "site": "berth",
    "services_file": "/srv/services.yml",
    "overrides": {"simd": {"tape": ["/t"]}},
    "specs": [
        {"name": "simd", "daemon": "simd", "mode": "singleton", "hosts": ["beta"]},
        {"name": "gone", "daemon": "bokd", "mode": "best", "hosts": ["alpha", "beta"]},
    ],
    "http_port": 8100,
}


@pytest.fixture
def site(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_what_is_written_is_read_and_names_no_service(site: Folders) -> None:
    assert run_file.read(site) is None
    run = RunFile("lab", ("alpha",), 8100, "etcd", "/srv/services.yml", {"simd": {"seed": 7}})
    run_file.write(site, run)
    assert run_file.read(site) == run
    assert set(json.loads(site.run_json.read_text())) == {
        "site", "hosts", "http_port", "store", "services_file", "overrides", "journal_dir", "store_url",
    }  # fmt: skip


def test_the_file_of_an_earlier_hftctl_is_understood_once(site: Folders) -> None:
    site.desired_json.write_text(json.dumps(EARLIER))
    run = run_file.read(site)
    assert run == RunFile(
        "berth", ("alpha", "beta"), 8100, "etcd", "/srv/services.yml", {"simd": {"tape": ["/t"]}}
    )
    run_file.write(site, run)
    assert not site.desired_json.exists() and run_file.read(site) == run


@pytest.mark.parametrize("name", ["run.json", "desired.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"site": 3}'])
def test_a_file_that_is_not_ours_is_refused_in_one_line_that_names_it(
    site: Folders, name: str, content: str
) -> None:
    (site.site_dir / name).write_text(content)
    with pytest.raises(InvalidInput) as caught:
        run_file.read(site)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_the_store_of_a_floor_is_found_by_what_floor_json_says(site: Folders) -> None:
    assert site.store_url() is None
    site.floor_json.write_text('{"store": {}}')
    assert site.store_url() is None, "it is not started yet"
    site.floor_json.write_text('{"store": {"kind": "etcd", "endpoints": ["127.0.0.1:1", "127.0.0.1:2"]}}')
    assert site.store_url() == "etcd://127.0.0.1:1,127.0.0.1:2"


def test_each_kind_of_store_is_there_under_its_name_and_another_is_refused() -> None:
    assert embedded.DEFAULT in embedded.KINDS
    for kind in embedded.KINDS:
        found = embedded.named(kind)
        assert found.kind == kind and found.stop_grace_s > 0
    with pytest.raises(InvalidInput, match=r'--store: found "zookeeper", wanted one of etcd'):
        embedded.named("zookeeper")


def test_a_health_port_that_http_has_too_is_named() -> None:
    spec = ServiceSpec("bookd", "bookd", Mode.SINGLETON, ("alpha",), health_port=8101)
    run = RunFile("lab", ("alpha",), 8100)
    with pytest.raises(InUse, match="8101: asked for by --http-port and by the health_port of bookd-alpha-1"):
        ports.require_free_health_ports("services.yml", [spec], run)
    ports.require_free_health_ports("services.yml", [spec], RunFile("lab"), before=[spec])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"site": 3}'])
def test_a_damaged_run_json_is_refused_with_what_heals_it_and_stays(tmp_path: Path, content: bytes) -> None:
    folders = Folders(tmp_path)
    folders.run_json.write_bytes(content)
    heals = r"run\.json: .*; move it away, and `hftctl up --services FILE` writes"
    with pytest.raises(InvalidInput, match=heals):
        run_file.read(folders)
    assert folders.run_json.read_bytes() == content
