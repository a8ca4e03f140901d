"""Signed heads: the format to the byte, the file, and what a check with a trusted key finds."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.errors import InvalidInput
from hftd.engine import audit_chain, audit_statement
from hftd.engine.audit_chain import Head
from hftd.engine.audit_statement import KeyStart, SignedHead
from hftd.storage import audit_assurance, audit_key, audit_signatures
from hftd.storage.audit_verify import Remembered

FEW = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])

KEY = audit_key.Key(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
NEXT = audit_key.Key(Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
FORGER = audit_key.Key(Ed25519PrivateKey.from_private_bytes(b"f" * 32))
TIME_NS = 1_800_000_000_123_456_789
GOLDEN_HEAD_SIG = (
    "22a1fbf03b25872afb494cb2ea3d338f265fc12af444905a7e230c75ceda3e0b"
    "51670e91a05989b861af68c762b69c744cd049e49505ac77825cc871a1ef2005"
)
GOLDEN_VOUCHED = (
    "6fb8000ff3e7cd3cc0ec85b8867b3eac05aa5906ec415dd0fbb45459537a5aa9"
    "db29be4de94f5464700e2b5bdc59549aaf148e3c0289ddebc8b9b3bbcbb14707"
)


def chain(count: int, price: str = "61800.3") -> list[audit_chain.ChainRecord]:
    head, made = audit_chain.START, []
    for n in range(1, count + 1):
        record = audit_chain.append(
            head, timestamp=n, action="ORDER_PLACED", user="mm", audit_seq=n, details={"price": price}
        )
        head = record.head
        made.append(record)
    return made


CHAIN = chain(12)


def signed(
    head: Head, key: audit_key.Key = KEY, *, site: str = "lab", service: str = "auditd", time: int = TIME_NS
) -> SignedHead:
    one = SignedHead(audit_statement.HEAD_FORMAT, site, service, head.seq, head.hash, time, key.id)
    return dataclasses.replace(one, sig=key.sign(audit_statement.message(one)))


def started(
    key: audit_key.Key, by: audit_key.Key | None = None, why: str = "first", head: Head = audit_chain.START
) -> KeyStart:
    one = KeyStart(
        audit_statement.KEY_FORMAT,
        "lab",
        "auditd",
        head.seq,
        head.hash,
        TIME_NS,
        key.id,
        key.public.hex(),
        by.id if by is not None else "",
        why,
        "",
    )
    if by is not None:
        one = dataclasses.replace(one, vouched=by.sign(audit_statement.vouch_message(one)))
    return dataclasses.replace(one, sig=key.sign(audit_statement.message(one)))


LINES = [
    audit_statement.line(each)
    for each in (started(KEY), signed(CHAIN[4].head), signed(CHAIN[8].head), signed(CHAIN[10].head))
]


def check(
    folder: Path,
    lines: list[bytes] | bytes | None = LINES,
    records: list[audit_chain.ChainRecord] = CHAIN,
    trusted: tuple[audit_key.Key, ...] = (KEY,),
    heads: tuple[Remembered, ...] = (),
) -> audit_assurance.Assurance:
    (folder / "audit").mkdir(exist_ok=True)
    (folder / "audit" / "1.jsonl").write_bytes(b"".join(map(audit_chain.line, records)))
    path = folder / "audit.signatures"
    if lines is not None:
        path.write_bytes(lines if isinstance(lines, bytes) else b"".join(lines))
    found = audit_assurance.read(path, [key.public for key in trusted], folder / "audit.pub")
    return audit_assurance.hold(folder / "audit", heads, found, path)


def kinds(found: audit_assurance.Assurance) -> list[str]:
    return [each.kind for each in found.findings]


# --- the format ---------------------------------------------------------------------------------------------


def test_the_bytes_of_a_signed_head_are_these() -> None:
    """A contract: another program, or another release, verifies what this one signed."""
    statement = signed(Head(7, "ab" * 32))
    assert KEY.id == "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"
    assert audit_statement.message(statement) == (
        b"hftctl-audit-head/1\n"
        b'{"format":"hftctl-audit-head/1","site":"lab","service":"auditd","seq":7,"hash":"'
        + b"ab"
        * 32
        + b'",'
        b'"time":1800000000123456789,"key":"' + KEY.id.encode() + b'"}'
    )
    assert statement.sig == GOLDEN_HEAD_SIG


def test_the_bytes_of_a_key_s_beginning_are_these() -> None:
    statement = started(NEXT, by=KEY, why="retired", head=Head(7, "ab" * 32))
    fields = (
        b'{"format":"hftctl-audit-key/1","site":"lab","service":"auditd","seq":7,"hash":"'
        + b"ab" * 32 + b'",'
        b'"time":1800000000123456789,"key":"' + NEXT.id.encode() + b'","public":"'
        + NEXT.public.hex().encode() + b'","previous":"' + KEY.id.encode() + b'","why":"retired"'
    )  # fmt: skip
    assert audit_statement.vouch_message(statement) == b"hftctl-audit-vouch/1\n" + fields + b"}"
    assert audit_statement.message(statement) == (
        b"hftctl-audit-key/1\n" + fields + b',"vouched":"' + statement.vouched.encode() + b'"}'
    )
    assert statement.vouched == GOLDEN_VOUCHED


def test_openssl_verifies_a_signed_head(tmp_path: Path) -> None:
    """An operator needs no hftctl for it (docs/operations.md has the commands)."""
    statement = signed(Head(7, "ab" * 32))
    (tmp_path / "audit.pub").write_bytes(audit_key.public_pem(KEY.public))
    (tmp_path / "message").write_bytes(audit_statement.message(statement))
    (tmp_path / "sig").write_bytes(bytes.fromhex(statement.sig))
    command = "openssl pkeyutl -verify -pubin -inkey audit.pub -rawin -in message -sigfile sig"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully"), done.stderr


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["format", "seq", "sig"]), inner)
    ),
    max_leaves=8,
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NUMBERS = st.integers(0, (1 << 63) - 1)
HEX64 = st.binary(min_size=32, max_size=32).map(bytes.hex)


@FEW
@given(site=TEXTS, service=TEXTS, seq=NUMBERS, hash=HEX64, time=NUMBERS)
def test_what_is_written_is_read_back(site: str, service: str, seq: int, hash: str, time: int) -> None:
    statement = signed(Head(seq, hash), site=site, service=service, time=time)
    assert audit_statement.parse(audit_statement.line(statement)) == statement
    assert audit_statement.message(statement).startswith(b"hftctl-audit-head/1\n{")


@FEW
@given(text=st.binary(max_size=300) | JSON.map(lambda found: json.dumps(found).encode()))
def test_no_line_of_rubbish_is_a_statement(text: bytes) -> None:
    assert audit_statement.parse(text) is None


@pytest.mark.parametrize(
    "change",
    [
        {"seq": True},
        {"seq": -1},
        {"seq": 1 << 63},
        {"time": 1.5},
        {"hash": "AB" * 32},
        {"hash": "ab" * 31},
        {"key": ""},
        {"sig": ""},
        {"site": 7},
        {"format": "hftctl-audit-head/2"},
        {"format": ["hftctl-audit-head/1"]},
        {"more": 1},
    ],
)
def test_a_field_of_another_kind_is_no_statement(change: dict[str, object]) -> None:
    fields = {**json.loads(LINES[1]), **change}
    assert audit_statement.parse(json.dumps(fields, separators=(",", ":")).encode()) is None
    assert audit_statement.parse(LINES[1]) is not None


def test_a_key_s_beginning_names_the_key_that_it_brings() -> None:
    other = dataclasses.replace(started(KEY), public=FORGER.public.hex())
    assert audit_statement.parse(audit_statement.line(other)) is None
    spaced = json.dumps(json.loads(LINES[1])).encode() + b"\n"
    assert audit_statement.parse(spaced) is None, "the same in other bytes"


# --- what a check finds -------------------------------------------------------------------------------------


def test_a_log_is_signed_up_to_its_newest_signed_head(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert kinds(found) == [] and found.signed is not None
    assert (found.signed.seq, found.younger, found.signatures.given) == (11, 1, True)


@FEW
@given(at=st.integers(0, sum(map(len, LINES)) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_of_the_signatures_is_found(tmp_path: Path, at: int, byte: int) -> None:
    content = bytearray(b"".join(LINES))
    content[at] = byte if content[at] != byte else (byte + 1) % 256
    found = check(tmp_path, bytes(content))
    # A torn end says nothing yet, and an older line by a key that nobody gave is counted: it proves nothing.
    assert kinds(found) or at == len(content) - 1 or found.signatures.strangers == 1


@FEW
@given(name=st.sampled_from(["site", "service", "seq", "hash", "time", "key", "sig"]), data=st.data())
def test_a_changed_field_is_found_though_its_line_is_canonical(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    statement = signed(CHAIN[10].head)
    others = {
        "site": TEXTS, "service": TEXTS, "seq": st.integers(0, 12), "hash": HEX64, "key": HEX64,
        "time": st.integers(0, 1 << 62), "sig": st.binary(min_size=64, max_size=64).map(bytes.hex),
    }  # fmt: skip
    value = data.draw(others[name].filter(lambda value: value != getattr(statement, name)))
    forged = dataclasses.replace(statement, **{name: value})
    found = check(tmp_path, [*LINES[:3], audit_statement.line(forged)])
    assert kinds(found) == (["unknown_key"] if name == "key" else ["forged"])
    assert found.signed is not None and found.signed.seq == 9


def test_a_log_forged_with_its_head_is_refused_with_the_trusted_key(tmp_path: Path) -> None:
    """The attack of the unkeyed chain: every line and the head are consistent, and nothing is true."""
    forged = chain(12, price="1.0")
    head = Remembered(forged[-1].head, "the head")
    assert kinds(check(tmp_path, None, forged, (), (head,))) == [], "as the chain alone sees it"
    assert kinds(check(tmp_path, LINES, forged, (KEY,), (head,))) == ["forged"] * 3
    assert kinds(check(tmp_path, b"", forged, (KEY,), (head,))) == ["unsigned"]
    own = [audit_statement.line(each) for each in (started(FORGER), signed(forged[-1].head, FORGER))]
    (tmp_path / "audit.pub").write_bytes(audit_key.public_pem(FORGER.public))
    assert kinds(check(tmp_path, own, forged, (), (head,))) == [], "a key found beside the log proves nothing"
    assert kinds(check(tmp_path, own, forged, (KEY,), (head,))) == ["unsigned", "unknown_key"]
    assert kinds(check(tmp_path, [*LINES, *own], forged, (KEY,), (head,)))[-1] == "unknown_key"


def test_a_log_cut_below_a_signed_head_is_found(tmp_path: Path) -> None:
    found = check(tmp_path, LINES, CHAIN[:10])
    assert kinds(found) == ["cut_tail"] and "signature by key" in found.findings[0].text


def test_log_and_signatures_cut_together_are_found_by_a_head_that_was_kept(tmp_path: Path) -> None:
    """What no signature can show: an older state of the log was true once."""
    kept = audit_assurance.parse_at_least(f"11:{CHAIN[10].hash}")
    assert kinds(check(tmp_path, LINES[:3], CHAIN[:9])) == []
    found = check(tmp_path, LINES[:3], CHAIN[:9], heads=(kept,))
    assert kinds(found) == ["cut_tail"] and "--at-least" in found.findings[0].text
    rewritten = [*CHAIN[:9], *(chain(12, price="1.0")[9:])]
    assert "changed" in kinds(check(tmp_path, LINES[:3], rewritten, heads=(kept,)))
    assert kinds(check(tmp_path, heads=(kept,))) == []


@pytest.mark.parametrize(
    "text", ["", "11", "x:" + "a" * 64, "0:" + "a" * 64, "11:abc", "11:" + "A" * 64, "-1:"]
)
def test_a_kept_head_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--at-least"):
        audit_assurance.parse_at_least(text)


def test_more_young_records_than_auditd_leaves_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_statement, "UNSIGNED_MAX", 3)
    assert kinds(check(tmp_path, LINES[:3])) == []
    assert kinds(check(tmp_path, LINES[:2])) == ["unsigned"]
    assert audit_statement.SIGN_AFTER + 64 < 10_000


def test_a_key_that_the_old_one_vouches_for_is_trusted_and_another_is_not(tmp_path: Path) -> None:
    newer = signed(CHAIN[11].head, NEXT)

    def by(*statements: KeyStart | SignedHead) -> list[bytes]:
        return [*LINES, *map(audit_statement.line, statements)]

    start = started(NEXT, by=KEY, why="retired", head=CHAIN[10].head)
    found = check(tmp_path, by(start, newer))
    assert kinds(found) == [] and found.signed == newer and found.signatures.keys[-1].vouched
    alone = started(NEXT, why="lost", head=CHAIN[10].head)
    found = check(tmp_path, by(alone, newer))
    assert kinds(found) == ["unknown_key"] and found.signed is not None and found.signed.key == KEY.id
    assert kinds(check(tmp_path, by(alone, newer), trusted=(KEY, NEXT))) == []
    assert kinds(check(tmp_path, by(alone, newer), trusted=(NEXT,))) == [], (
        "the old key's lines are not judged"
    )
    as_if = dataclasses.replace(started(FORGER, by=FORGER, why="retired"), previous=KEY.id)
    as_if = dataclasses.replace(as_if, sig=FORGER.sign(audit_statement.message(as_if)))
    assert kinds(check(tmp_path, by(as_if, signed(CHAIN[11].head, FORGER)))) == ["unknown_key"]
    unproved = dataclasses.replace(start, sig=KEY.sign(audit_statement.message(start)))
    assert "forged" in kinds(check(tmp_path, by(unproved, newer)))


def test_a_head_of_another_log_signed_by_the_same_key_is_found(tmp_path: Path) -> None:
    line = audit_statement.line(signed(CHAIN[11].head, site="production"))
    assert kinds(check(tmp_path, [*LINES, line])) == ["forged"]


def test_without_signatures_the_log_is_judged_by_its_chain_alone(tmp_path: Path) -> None:
    found = check(tmp_path, None, trusted=())
    assert kinds(found) == [] and found.signed is None and found.younger == 12


def test_a_statement_that_is_being_written_is_not_judged(tmp_path: Path) -> None:
    assert kinds(check(tmp_path, [*LINES[:3], LINES[3][:-20]])) == []


def test_a_line_too_long_to_be_one_is_named_and_the_next_one_is_read(tmp_path: Path) -> None:
    found = check(tmp_path, [*LINES[:2], b"x" * 200_000 + b"\n", *LINES[2:]])
    assert [(each.kind, each.line) for each in found.findings] == [("forged", 3)]
    assert found.signed is not None and found.signed.seq == 11


def test_only_the_newest_heads_are_checked_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_assurance, "HEADS_MAX", 2)
    found = check(tmp_path)
    assert found.signatures.older == 1 and len(found.signatures.heads) == 2 and kinds(found) == []


# --- the file -----------------------------------------------------------------------------------------------


def read(path: Path) -> list[object]:
    return [line.statement for line in audit_signatures.read(path)]


def test_a_torn_line_is_cut_off_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.signatures"
    first, second = signed(CHAIN[4].head), signed(CHAIN[8].head)
    audit_signatures.SignatureFile(path).append(first)
    with path.open("ab") as file:
        file.write(LINES[2][:100])
    again = audit_signatures.SignatureFile(path)
    assert again.tail() == [first]
    again.append(second)
    assert read(path) == [first, second] and path.stat().st_mode & 0o777 == 0o600


def test_a_long_end_that_is_not_ours_stays(tmp_path: Path) -> None:
    path = tmp_path / "audit.signatures"
    path.write_bytes(b"x" * 9000)
    audit_signatures.SignatureFile(path).append(signed(CHAIN[4].head))
    assert read(path) == [None, signed(CHAIN[4].head)]


def test_the_tail_is_read_from_a_whole_line_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.signatures"
    file = audit_signatures.SignatureFile(path)
    file.append(*(signed(Head(n, "ab" * 32)) for n in range(1, 401)))
    found = file.tail()
    assert 100 < len(found) < 400 and [each.seq for each in found] == list(range(401 - len(found), 401))


def test_a_key_file_is_a_public_one_and_an_ed25519_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(InvalidInput, match="cannot be read"):
        audit_key.read_public(path)
    KEY.write(path)
    with pytest.raises(InvalidInput, match="BEGIN PUBLIC KEY"):
        audit_key.read_public(path)
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(InvalidInput, match="not a public key"):
        audit_key.read_public(path)
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    other = X25519PrivateKey.generate().public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    path.write_bytes(other)
    with pytest.raises(InvalidInput, match="not an Ed25519 key"):
        audit_key.read_public(path)
    path.write_bytes(audit_key.public_pem(KEY.public) + audit_key.public_pem(NEXT.public))
    assert audit_key.read_public(path) == [KEY.public, NEXT.public]
