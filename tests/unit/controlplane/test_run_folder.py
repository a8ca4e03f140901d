"""Where the run folder is, who may have made it, and whether it survives a logout."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from controlplane.errors import InUse
from controlplane.host import run_folder

ORDINARY = 4242
"""The uid of a user as people have it; of none here."""


def test_the_default_place_depends_on_user_and_site_folder_and_on_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = run_folder.default(Path("/srv/a"))
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "/elsewhere")
    assert run_folder.default(Path("/srv/a")) == one and str(os.geteuid()) in one.name
    assert run_folder.default(Path("/srv/b")) != one
    assert len(str(one)) < 40, "AF_UNIX paths end at 107 bytes"
    monkeypatch.setattr(os, "geteuid", lambda: ORDINARY)
    assert run_folder.default(Path("/srv/a")) != one


def test_it_is_made_for_this_user_alone_and_an_own_one_is_taken(tmp_path: Path) -> None:
    place = tmp_path / "run"
    assert run_folder.make(place) == place
    place.chmod(0o755)
    (place / "kept").touch()
    run_folder.make(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700 and (place / "kept").exists()


@pytest.mark.parametrize("what", ["a file", "a link", "another's", "no parent"])
def test_what_is_not_our_own_folder_is_refused_by_name(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"
    if what == "a file":
        place.touch()
    elif what == "a link":
        place.symlink_to(tmp_path)
    elif what == "another's":
        place.mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: ORDINARY)
    else:
        place = tmp_path / "unmounted" / "run"
    with pytest.raises(InUse, match=f"run folder {place}: "):
        run_folder.make(place)


class Machine:
    """What a login manager has on disk."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users, self.lingering, self.conf = folder / "users", folder / "linger", folder / "logind.conf"
        self.drop_ins = folder / "logind.conf.d"
        for made in (self.users, self.lingering, self.drop_ins):
            made.mkdir()
        monkeypatch.setattr(run_folder, "LOGIND", self.users)
        monkeypatch.setattr(run_folder, "LINGERING", self.lingering)
        monkeypatch.setattr(run_folder, "LOGIND_CONF", (str(self.conf), str(self.drop_ins)))
        monkeypatch.setattr(os, "geteuid", lambda: ORDINARY)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_an_ordinary_user_is_told_what_a_logout_does_and_how_to_prevent_it(machine: Machine) -> None:
    said = run_folder.ends_at_logout()
    assert f"when {ORDINARY} logs out" in said and f"`loginctl enable-linger {ORDINARY}`" in said


def test_nothing_is_said_where_it_survives(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.lingering / str(ORDINARY)).touch()
    assert run_folder.ends_at_logout() == "", "the user lingers"
    (machine.lingering / str(ORDINARY)).unlink()
    machine.users.rmdir()
    assert run_folder.ends_at_logout() == "", "no login manager runs"
    machine.users.mkdir()
    for system in (0, run_folder.SYSTEM_UID_MAX):
        monkeypatch.setattr(os, "geteuid", lambda system=system: system)
        assert run_folder.ends_at_logout() == "", "system users keep their files"


@pytest.mark.parametrize(
    ("conf", "drop_in", "ends"),
    [
        ("[Login]\nRemoveIPC=no\n", None, False),
        ("[Login]\nRemoveIPC=no\n", "[Login]\nRemoveIPC=yes\n", True),
        ("[Login]\n#RemoveIPC=no\n", None, True),
        ("[Login]\nRemoveIPC=yes\n", "[Login]\nRemoveIPC=off\n", False),
        ("\x00 no ini file", "[Login]\nRemoveIPC=maybe\n", True),
    ],
)
def test_the_login_managers_own_files_decide(
    machine: Machine, conf: str, drop_in: str | None, ends: bool
) -> None:
    machine.conf.write_text(conf)
    if drop_in is not None:
        (machine.drop_ins / "50-site.conf").write_text(drop_in)
    assert bool(run_folder.ends_at_logout()) is ends
