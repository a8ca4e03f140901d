"""Small files are replaced whole or not at all, in one place of the product, with the durability that is
asked for.
"""

from __future__ import annotations

import ast
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.host import files
from controlplane.host.files import Durability

PRODUCT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=list(Durability))
def durability(request: pytest.FixtureRequest) -> Durability:
    found: Durability = request.param
    return found


def test_the_new_content_takes_the_place_of_the_old_with_the_mode_asked_for(
    tmp_path: Path, durability: Durability
) -> None:
    path = tmp_path / "a.json"
    files.replace(path, b"old", durability)
    files.replace(path, b"new" * 100_000, durability, mode=0o600)
    assert path.read_bytes() == b"new" * 100_000 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_only_a_power_cut_costs_syncs_of_the_file_before_and_the_folder_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    path = tmp_path / "a.json"

    def fsync(fd: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        synced.append((kind, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.replace(path, b"1", Durability.POWER)
    assert synced == [("file", False), ("folder", True)]
    synced.clear()
    files.replace(path, b"2", Durability.CRASH)
    assert synced == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_disk_that_refuses_leaves_the_old_file_and_no_other_and_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    path = tmp_path / "a.json"
    files.replace(path, b"old", Durability.POWER)
    asked: list[int] = []
    real_write = os.write

    def refuse(fd: int, content: bytes = b"") -> int:
        asked.append(fd)
        if step == "write" and len(asked) == 1:
            return real_write(fd, content[:2])  # a part goes in first, as on a disk that fills up
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(OSError) as caught:
        files.replace(path, b"new content", Durability.POWER)
    monkeypatch.undo()
    assert caught.value.errno == number and caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_is_not_there_is_named_too(tmp_path: Path, durability: Durability) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.replace(tmp_path / "none" / "a.json", b"", durability)
    assert caught.value.filename == str(tmp_path / "none" / "a.json")


def test_a_reader_beside_many_writers_sees_one_of_their_contents_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.replace(path, b"0" * 5000, Durability.CRASH)

    def write(digit: bytes) -> None:
        for _ in range(50):
            files.replace(path, digit * 5000, Durability.CRASH)

    writers = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(4)]
    for each in writers:
        each.start()
    while any(each.is_alive() for each in writers):
        found = path.read_bytes()
        assert len(found) == 5000 and len(set(found)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[1]", b"\xff\xfe", b"null", b'{"a": 1} x', b"[" * 100_000]
)
def test_json_that_is_missing_or_damaged_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    assert files.read_json(path) is None


def test_json_that_is_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"a": [1]}')
    assert files.read_json(tmp_path / "a.json") == {"a": [1]}
    assert files.read_json(tmp_path) is None


# --- one place ----------------------------------------------------------------------------------------------

ALLOWED = {
    "controlplane/host/files.py": "the one",
    "controlplane/host/log_file.py": "rotation: no content is replaced",
    "controlplane/floor/child_log.py": "sets a log aside before it is opened again",
    "controlplane/http/listener.py": "a socket takes its name once it listens",
    "controlplane/floor/etcd.py": "a whole folder takes its name",
    "agents/events.py": "rotation",
    "agents/supervisor/shim.py": "imports nothing of ours; rotation and its state file",
    "hftd/storage/damage.py": "sets damaged segments aside",
    "hftd/storage/journal.py": "a segment of an open journal, written through its own descriptor",
    "hftd/storage/recovery.py": "a segment gets its final name",
    "hftd/storage/sync_thread.py": "a segment gets its final name",
    "hftd/storage/audit_signer.py": "sets a key aside that is not used",
    "hftd/storage/fences.py": "a file of the first release gets its present name",
}


def renames(source: str) -> Iterator[int]:
    """Lines where a file gets another name: os.rename, os.replace, Path.rename, and Path.replace as far as
    its words tell it from other things with that name (it takes one argument; str.replace takes two).
    """
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, of = node.func.attr, node.func.value
        in_os = isinstance(of, ast.Name) and of.id == "os"
        one = len(node.args) == 1 and not node.keywords
        of_a_path = one and any(word in ast.unparse(node) for word in ("path", "fresh", "with_name"))
        if (name in ("rename", "renames") and (in_os or one)) or (name == "replace" and (in_os or of_a_path)):
            yield node.lineno


def test_no_other_part_of_the_product_replaces_a_file_its_own_way() -> None:
    found = {
        str(path.relative_to(PRODUCT))
        for package in ("controlplane", "agents", "hftd")
        for path in (PRODUCT / package).rglob("*.py")
        if any(renames(path.read_text()))
    }
    assert found - ALLOWED.keys() == set(), "use controlplane.host.files.replace"
    assert ALLOWED.keys() - found == set(), "allowed for no reason"
