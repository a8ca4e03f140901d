"""auditd's signing: what it makes of each state of key, signatures and log that it may find at a start, and
of files that somebody changes while it runs. No log is ever refused for it.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from controlplane.host import files
from hftd.engine import audit_statement
from hftd.engine.audit_statement import KeyStart, SignedHead
from hftd.storage import audit_assurance, audit_key, audit_log, audit_signatures, audit_signer, audit_verify
from hftd.storage.audit_verify import Remembered

SECOND_NS = 1_000_000_000


class Auditor:
    """What auditd does with both, without a socket: a start, records, an end."""

    def __init__(self, folder: Path, *, file_bytes_max: int = 1 << 20) -> None:
        self.folder, self.data = folder, folder / "data"
        self.data.mkdir(exist_ok=True)
        self.signer = audit_signer.Signer(self.data, folder, site="lab", service="auditd")
        path, head = folder / "audit", folder / "audit.head"
        self.log = audit_log.AuditLog(path, head, file_bytes_max=file_bytes_max, signed=self.signer.signed)
        self.lost = self.log.expected is not None
        self.rewritten = self.log.rewritten is not None
        self.log.record_loss(1, "auditd-alpha-1")
        self.sign()

    def sign(self) -> None:
        self.log.sync()
        assert self.log.synced == self.log.head
        self.signer.sign(self.log.head, SECOND_NS, 1_800_000_000 * SECOND_NS)

    def records(self, count: int, price: str = "61800.3") -> None:
        for _ in range(count):
            self.log.append(timestamp=1, action="ORDER_PLACED", user="mm", details={"price": price})

    def end(self, *, signed: bool = True) -> None:
        if signed:
            self.sign()
        self.log.close()

    @property
    def problems(self) -> list[str]:
        return sorted(self.signer.problems)


def public(folder: Path) -> list[bytes]:
    return audit_key.read_public(folder / "audit.pub")


def kinds(folder: Path, trusted: list[bytes]) -> list[str]:
    found = audit_assurance.read(folder / "audit.signatures", trusted, folder / "audit.pub")
    head = audit_verify.read_head(folder / "audit.head")
    heads = [] if head is None else [Remembered(head, "the head")]
    held = audit_assurance.hold(folder / "audit", heads, found, folder / "audit.signatures")
    return [each.kind for each in held.findings]


def statements(folder: Path) -> list[audit_statement.Statement | None]:
    return [line.statement for line in audit_signatures.read(folder / "audit.signatures")]


def ran(folder: Path, count: int = 10) -> list[bytes]:
    """A log that was written and closed in order; the key that signed it."""
    one = Auditor(folder)
    one.records(count)
    one.end()
    assert one.problems == []
    return public(folder)


def cut(folder: Path, records: int) -> None:
    path = folder / "audit" / "1.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:records]))


def forge(folder: Path, records: int = 10) -> None:
    """Log and head anew, with other records, as whoever can write both would."""
    for path in (folder / "audit").iterdir():
        path.unlink()
    (folder / "audit.head").unlink()
    log = audit_log.AuditLog(folder / "audit", folder / "audit.head", file_bytes_max=1 << 20)
    for n in range(records):
        log.append(timestamp=1, action="ORDER_PLACED", user="mm", details={"price": "1.0", "n": n})
    log.close()


def test_a_first_start_makes_a_key_says_so_and_signs(tmp_path: Path) -> None:
    one = Auditor(tmp_path)
    begun = one.signer.begun
    assert begun is not None and (begun.why, begun.previous, begun.vouched) == ("first", "", False)
    one.records(10)
    one.end()
    assert one.problems == [] and one.signer.signed == one.log.head
    assert (tmp_path / "data" / "audit.key").stat().st_mode & 0o777 == 0o600
    assert [type(each) for each in statements(tmp_path)] == [KeyStart, SignedHead]
    assert audit_statement.key_id(public(tmp_path)[0]) == begun.key
    assert kinds(tmp_path, public(tmp_path)) == []
    again = Auditor(tmp_path)
    assert again.signer.begun is None and again.problems == [] and again.signer.key is not None
    assert again.signer.key.id == begun.key and len(statements(tmp_path)) == 3
    again.end(signed=False)


def test_a_log_from_before_there_were_keys_is_signed_without_an_alarm(tmp_path: Path) -> None:
    (tmp_path / "audit.head").write_bytes(b"")
    (tmp_path / "audit.head").unlink()
    log = audit_log.AuditLog(tmp_path / "audit", tmp_path / "audit.head", file_bytes_max=1 << 20)
    log.append(timestamp=1, action="ORDER_PLACED", user="mm", details={})
    log.close()
    one = Auditor(tmp_path)
    assert one.problems == [] and one.signer.signed == log.head
    one.end()
    assert kinds(tmp_path, public(tmp_path)) == []


def test_it_is_due_when_time_has_passed_and_there_is_something_to_sign(tmp_path: Path) -> None:
    one = Auditor(tmp_path)
    ten_s = 10 * SECOND_NS
    assert not one.signer.due(one.log.head, 30 * SECOND_NS, ten_s), "nothing new"
    one.records(1)
    assert not one.signer.due(one.log.head, SECOND_NS + ten_s - 1, ten_s)
    assert one.signer.due(one.log.head, SECOND_NS + ten_s, ten_s)
    assert one.signer.due(one.log.head, SECOND_NS, 0) and one.signer.unsigned(one.log.head) == 1
    one.sign()
    assert not one.signer.due(one.log.head, 30 * SECOND_NS, ten_s)
    one.end()


# --- the log is held to what was signed, before anything is signed again ------------------------------------


def test_a_log_cut_with_its_head_while_auditd_was_down_is_not_signed_over(tmp_path: Path) -> None:
    key = ran(tmp_path)
    cut(tmp_path, 6)
    sixth = json.loads((tmp_path / "audit" / "1.jsonl").read_bytes().splitlines()[-1])
    head = audit_verify.Head(6, sixth["hash"])
    (tmp_path / "audit.head").write_bytes(audit_verify.format_head(head))
    (tmp_path / "audit.signatures").write_bytes(b"")
    one = Auditor(tmp_path)
    assert one.lost and one.problems == ["audit.signatures"]
    one.records(3)
    one.end()
    assert kinds(tmp_path, key) == ["tail_lost"]
    again = Auditor(tmp_path)
    assert not again.lost and again.problems == [], "said once"
    again.end()


def test_a_forged_log_gets_a_signature_only_with_the_forgery_recorded_in_it(tmp_path: Path) -> None:
    key = ran(tmp_path)
    forge(tmp_path, 12)
    (tmp_path / "audit.signatures").unlink()
    one = Auditor(tmp_path)
    assert one.rewritten and not one.lost and one.problems == ["audit.signatures"]
    one.end()
    assert kinds(tmp_path, key) == ["rewritten"]
    again = Auditor(tmp_path)
    assert not again.rewritten
    again.end()


def test_the_signed_head_is_looked_for_in_older_files_too(tmp_path: Path) -> None:
    one = Auditor(tmp_path, file_bytes_max=4096)
    one.records(40)
    one.sign()
    one.records(100)
    one.end(signed=False)
    assert len(list((tmp_path / "audit").iterdir())) > 5
    again = Auditor(tmp_path, file_bytes_max=4096)
    assert not again.rewritten and not again.lost and again.signer.signed == again.log.head
    again.end()


def test_a_head_file_that_names_another_record_is_recorded(tmp_path: Path) -> None:
    key = ran(tmp_path)
    (tmp_path / "audit.head").write_bytes(audit_verify.format_head(audit_verify.Head(10, "ab" * 32)))
    one = Auditor(tmp_path)
    assert one.rewritten
    one.end()
    assert kinds(tmp_path, key) == ["rewritten"]


def test_no_head_is_signed_while_the_loss_is_not_in_the_chain(tmp_path: Path) -> None:
    ran(tmp_path)
    forge(tmp_path)
    log = audit_log.AuditLog(
        tmp_path / "audit",
        tmp_path / "audit.head",
        file_bytes_max=1 << 20,
        signed=audit_verify.read_head(tmp_path / "data" / "audit.signed"),
    )
    log.sync()
    assert log.synced is None
    log.record_loss(1, "auditd-alpha-1")
    log.sync()
    assert log.synced == log.head
    log.close()


def test_a_log_that_ends_before_what_was_signed_is_to_be_signed_once_that_is_in_the_chain(
    tmp_path: Path,
) -> None:
    ran(tmp_path)
    signer = audit_signer.Signer(tmp_path / "data", tmp_path, site="lab", service="auditd")
    assert signer.signed is not None and signer.signed.seq == 10
    shorter = audit_verify.Head(7, "ab" * 32)
    assert signer.unsigned(shorter) == 1 and signer.due(shorter, 1, SECOND_NS)
    assert signer.unsigned(signer.signed) == 0


# --- signatures cut, torn, gone -----------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["missing", "nothing", "older"])
def test_signatures_cut_back_are_an_alarm_and_the_log_is_signed_again(tmp_path: Path, left: str) -> None:
    key = ran(tmp_path)
    one = Auditor(tmp_path)
    one.records(5)
    one.end()
    path = tmp_path / "audit.signatures"
    lines = path.read_bytes().splitlines(keepends=True)
    if left == "missing":
        path.unlink()
    else:
        path.write_bytes(b"".join(lines[:2]) if left == "older" else b"")
    again = Auditor(tmp_path)
    assert (
        again.problems == ["audit.signatures"]
        and "record 15 was signed" in again.signer.problems["audit.signatures"]
    )
    assert kinds(tmp_path, key) == [] == kinds(tmp_path, [])
    again.end()
    assert Auditor(tmp_path).problems == []


def test_a_torn_statement_is_no_alarm(tmp_path: Path) -> None:
    """A power cut: its head was not remembered either."""
    key = ran(tmp_path)
    with (tmp_path / "audit.signatures").open("ab") as file:
        file.write(b'{"format":"hftctl-audit-head/1","si')
    one = Auditor(tmp_path)
    one.records(1)
    one.end()
    assert one.problems == [] and kinds(tmp_path, key) == [] and None not in statements(tmp_path)


def test_signatures_cut_while_it_runs_are_noticed_at_the_next_signing(tmp_path: Path) -> None:
    one = Auditor(tmp_path)
    one.records(5)
    one.sign()
    (tmp_path / "audit.signatures").write_bytes(b"")
    assert one.signer.due(one.log.head, 100 * SECOND_NS, SECOND_NS), "though no record is new"
    one.sign()
    assert one.problems == ["audit.signatures"]
    assert [type(each) for each in statements(tmp_path)] == [KeyStart, SignedHead]
    assert kinds(tmp_path, public(tmp_path)) == []
    one.end()


def test_a_public_key_that_was_replaced_is_an_alarm_and_put_right(tmp_path: Path) -> None:
    key = ran(tmp_path)
    (tmp_path / "audit.pub").write_bytes(audit_key.public_pem(audit_key.Key.generate().public))
    one = Auditor(tmp_path)
    assert one.problems == ["audit.signatures"] and public(tmp_path) == key
    one.end()


@pytest.mark.parametrize("what", ["folder", "fifo", "link"])
def test_no_file_in_the_public_key_s_place_stops_a_signature(tmp_path: Path, what: str) -> None:
    key = ran(tmp_path)
    path = tmp_path / "audit.pub"
    path.unlink()
    match what:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to("/dev/zero")
    one = Auditor(tmp_path)
    one.records(2)
    one.end()
    assert one.problems == (["audit.unsigned"] if what == "folder" else [])
    assert one.signer.signed == one.log.head and kinds(tmp_path, key) == []
    assert what == "folder" or public(tmp_path) == key


def test_a_remembered_head_that_does_not_decode_is_an_alarm_and_the_file_s_own_counts(tmp_path: Path) -> None:
    ran(tmp_path)
    (tmp_path / "data" / "audit.signed").write_bytes(b"rubbish")
    one = Auditor(tmp_path)
    assert one.problems == ["audit.signatures"] and one.signer.signed == one.log.head
    one.end()
    forge(tmp_path)
    (tmp_path / "data" / "audit.signed").write_bytes(b"rubbish")
    assert Auditor(tmp_path).rewritten


# --- the key ------------------------------------------------------------------------------------------------


def spoil(path: Path, how: str) -> None:
    match how:
        case "lost":
            path.unlink()
        case "damaged: cut":
            path.write_bytes(path.read_bytes()[:60])
        case "damaged: nothing":
            path.write_bytes(b"")
        case "damaged: folder":
            path.unlink()
            path.mkdir()
        case "damaged: fifo":
            path.unlink()
            os.mkfifo(path, 0o600)
        case "exposed: mode":
            path.chmod(0o640)
        case "exposed: link":
            path.rename(path.with_name("elsewhere"))
            path.symlink_to(path.with_name("elsewhere"))
        case "exposed: owner":
            os.chown(path, 65534, -1)


HOWS = ["lost", "damaged: cut", "damaged: nothing", "damaged: folder", "damaged: fifo"]
HOWS += ["exposed: mode", "exposed: link", "exposed: owner"]


@pytest.mark.parametrize("how", HOWS)
def test_a_key_that_cannot_be_used_is_an_alarm_and_another_signs_without_its_word(
    tmp_path: Path, how: str
) -> None:
    if how == "exposed: owner" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    old = ran(tmp_path)
    spoil(tmp_path / "data" / "audit.key", how)
    one = Auditor(tmp_path)
    why, begun = how.split(":")[0], one.signer.begun
    assert begun is not None and (begun.why, begun.vouched) == (why, False)
    assert begun.previous == audit_statement.key_id(old[0])
    assert one.problems == ["audit.key"] and begun.key in one.signer.problems["audit.key"]
    one.records(3)
    one.end()
    new = public(tmp_path)
    assert new != old and kinds(tmp_path, old) == ["unknown_key"] and kinds(tmp_path, [*old, *new]) == []
    aside = [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith(f"audit.key.{why}.")]
    assert len(aside) == (0 if how == "lost" else 1), "what was found is kept"
    again = Auditor(tmp_path)
    assert again.problems == [] and again.signer.begun is None and public(tmp_path) == new
    again.end()


def test_a_key_of_another_kind_is_damaged(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    path = tmp_path / "key"
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    found = audit_key.load(path)
    assert isinstance(found, audit_key.Unusable) and found.why == "damaged"


def test_a_key_that_cannot_be_read_now_stays_and_nothing_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ran(tmp_path)
    opened = os.open

    def refuse(path: object, *given: int, **more: int) -> int:
        if str(path).endswith("audit.key"):
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *given, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        one = Auditor(tmp_path)
    one.records(3)
    assert one.problems == ["audit.key"] and not one.signer.due(one.log.head, 1 << 60, 1)
    one.end()
    assert [each.seq for each in statements(tmp_path) if each is not None] == [0, 10]
    again = Auditor(tmp_path)
    assert again.problems == [] and public(tmp_path) == key and again.signer.signed == again.log.head
    again.end()


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_retired_key_vouches_for_the_next_and_goes(tmp_path: Path, how: str) -> None:
    old = ran(tmp_path)
    key = tmp_path / "data" / "audit.key"
    retired = key.with_name("audit.key.retired")
    if how == "moved":
        key.rename(retired)
    else:
        retired.write_bytes(key.read_bytes())
        retired.chmod(0o600)
    one = Auditor(tmp_path)
    assert one.problems == [] and one.signer.begun is not None
    assert (one.signer.begun.why, one.signer.begun.vouched) == ("retired", True)
    one.records(3)
    one.end()
    assert not retired.exists() and public(tmp_path) != old
    assert kinds(tmp_path, old) == [] == kinds(tmp_path, public(tmp_path))


def test_a_hand_over_that_was_cut_short_is_made_at_the_next_start(tmp_path: Path) -> None:
    old = ran(tmp_path)
    key = tmp_path / "data" / "audit.key"
    key.rename(key.with_name("audit.key.retired"))
    audit_key.Key.generate().write(key)  # and then the power went
    one = Auditor(tmp_path)
    assert one.signer.begun is not None and one.signer.begun.vouched
    one.end()
    assert kinds(tmp_path, old) == []


def test_a_retired_key_that_others_could_read_vouches_for_nothing(tmp_path: Path) -> None:
    old = ran(tmp_path)
    key = tmp_path / "data" / "audit.key"
    key.rename(key.with_name("audit.key.retired"))
    key.with_name("audit.key.retired").chmod(0o644)
    one = Auditor(tmp_path)
    assert one.problems == ["audit.key"]
    one.records(1)
    one.end()
    assert kinds(tmp_path, old) == ["unknown_key"]


# --- the disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["audit.signatures", "audit.signed", "audit.key", "audit.pub"])
def test_what_cannot_be_written_is_an_alarm_and_signed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    written = files.write_all

    def full(fd: int, content: bytes) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if not name.startswith((what, f".{what}.")):
            return written(fd, content)
        os.write(fd, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_all", full)
        one = Auditor(tmp_path)
        one.records(3)
        one.sign()
    assert one.problems == ["audit.unsigned"] and "No space left" in one.signer.problems["audit.unsigned"]
    path = tmp_path / "audit.signatures"
    assert not path.exists() or path.read_bytes()[-1:] in (b"", b"\n"), "no part of a line stays"
    assert list(tmp_path.glob("**/.audit*")) == []
    assert one.signer.due(one.log.head, 100 * SECOND_NS, SECOND_NS)
    one.sign()
    assert one.problems == [] and one.signer.signed == one.log.head
    one.end()
    assert kinds(tmp_path, public(tmp_path)) == []
    assert Auditor(tmp_path).problems == []


@pytest.mark.parametrize("what", ["folder", "fifo", "link"])
def test_signatures_that_are_no_file_are_an_alarm_and_left_alone(tmp_path: Path, what: str) -> None:
    ran(tmp_path)
    path = tmp_path / "audit.signatures"
    path.rename(tmp_path / "elsewhere")
    match what:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to("elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    one = Auditor(tmp_path)
    one.records(2)
    one.end()
    assert "audit.unsigned" in one.problems and (tmp_path / "elsewhere").read_bytes() == before
    with pytest.raises(InvalidInput, match="audit signatures"):
        kinds(tmp_path, [])
