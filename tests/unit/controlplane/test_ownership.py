"""A site folder that another user owns, or could replace, is not believed; one of ours is made ours alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from controlplane.cli import main
from controlplane.errors import InUse
from controlplane.floor import ownership
from controlplane.floor.ownership import make_own, require_own

NOBODY = 65_534


def site(tmp_path: Path, mode: int = 0o700) -> Path:
    folder = tmp_path / "above" / "site"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o755)
    folder.chmod(mode)
    return folder


@pytest.mark.parametrize("holds", [[], ["floor.lock", "logs"], ["run.json"]])
def test_a_site_folder_of_ours_is_made_ours_alone_and_one_that_is_not_there_is_fine(
    holds: list[str], tmp_path: Path
) -> None:
    folder = site(tmp_path, 0o755)
    for name in holds:
        (folder / name).touch()
    make_own(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    make_own(tmp_path / "above" / "another" / "deeper")
    assert not (tmp_path / "above" / "another").exists()


@pytest.mark.parametrize("verb", ["up -d", "down"])
def test_a_folder_that_is_no_site_keeps_its_mode_whatever_the_verb(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--site-dir /etc` by a slip must not close /etc to everybody."""
    folder = site(tmp_path, 0o755)
    (folder / "passwd").touch()
    code = main.run([*verb.split(), "--site-dir", str(folder)])
    said = capsys.readouterr()
    assert folder.stat().st_mode & 0o777 == 0o755 and [path.name for path in folder.iterdir()] == ["passwd"]
    if verb == "down":
        assert code == 0 and "nothing to do" in said.out
    else:
        assert code == 2 and "holds other things than a floor's" in said.err and said.err.count("\n") == 1


def test_a_folder_above_that_others_can_write_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    folder = site(tmp_path)
    folder.parent.chmod(0o777)
    with pytest.raises(InUse, match=r"above it can be written by others \(mode 0777\).*--site-dir"):
        require_own(folder)
    folder.parent.chmod(0o1777)
    require_own(folder)


def test_a_link_is_followed_before_anything_is_judged(tmp_path: Path) -> None:
    folder = site(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    folder.parent.chmod(0o777)
    with pytest.raises(InUse, match="can be written by others"):
        require_own(tmp_path / "link")


def test_a_group_of_this_user_alone_may_write_above_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site(tmp_path)
    folder.parent.chmod(0o775)
    group = SimpleNamespace(gr_name="ann", gr_mem=[])
    gid = folder.parent.stat().st_gid
    monkeypatch.setattr(ownership, "ROOT", -1)  # its user and group are not root's here
    monkeypatch.setattr(ownership, "_require_safe", only(folder.parent, ownership._require_safe))
    monkeypatch.setattr(ownership.grp, "getgrgid", lambda _: group)
    me = SimpleNamespace(pw_name="ann", pw_gid=gid)
    monkeypatch.setattr(ownership.pwd, "getpwuid", lambda _: me)
    require_own(folder)
    group.gr_mem = ["ann", "bob"]
    with pytest.raises(InUse, match="written by others"):
        require_own(folder)


def only(folder: Path, check: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
    return lambda each, site_dir: check(each, site_dir) if each == folder else None


@pytest.mark.parametrize("verb", ["up -d", "down"])
def test_what_another_user_prepared_is_neither_run_nor_ended(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = site(tmp_path)
    mark = tmp_path / "run-as-root"
    (folder / "floor.json").write_text(
        f'{{"processes": {{"etcd": 1}}, "store": {{"command": ["touch", "{mark}"]}}}}'
    )
    os.chown(folder, NOBODY, NOBODY)
    assert main.run([*verb.split(), "--site-dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "belongs to user nobody, and you are user root" in said
    assert not mark.exists()
    os.chown(folder, 0, 0)
    os.chown(folder.parent, NOBODY, NOBODY)
    assert main.run([*verb.split(), "--site-dir", str(folder)]) == 2
    assert "above it belongs to user nobody, who could put another in its place" in capsys.readouterr().err


def test_a_site_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InUse, match="not a folder"):
        require_own(tmp_path / "file")
