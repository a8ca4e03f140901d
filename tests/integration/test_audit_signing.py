"""auditd as a process signs the heads of its log, goes on without when it cannot, and `audit verify` says
what that is worth: each attack on log, head, signatures and key, on the files of a real one.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.cli import main
from hftd import bus
from hftd.engine import audit_statement
from hftd.storage import audit_log, audit_signatures
from hftd.wire import codec, control, orders
from tests.support import claims, daemons, disks

CLAIMANT = codec.ProcessOnWire("omsd-alpha-1", "6e2b1c1e-0000-4000-8000-000000000000", 1, 1)
TOKEN = codec.TokenOnWire(7, "omsd", 1)


class Floor:
    """auditd, and a test that is its omsd and its agent."""

    def __init__(self, folder: Path, auditd: daemons.Daemon) -> None:
        self.folder, self.auditd = folder, auditd
        self.site, self.data = folder / "site", folder / "data-auditd-alpha-1"
        self.omsd = bus.link.Dealer("omsd-alpha-1.1", auditd.endpoint("events"))
        self._sent = 0

    def start(self) -> None:
        self.auditd.start()
        claim = orders.Attach(1, 0, 0, "omsd-alpha-1", TOKEN, CLAIMANT)
        attach = codec.encode(claims.signed(claim, self.omsd, self.site))
        daemons.wait_for("auditd takes the link", lambda: self.omsd.send(attach))
        daemons.receive(
            self.omsd.socket,
            orders.decode_coming_back,
            lambda message: isinstance(message, orders.Attached) and message.ok,
        )

    def records(self, count: int) -> None:
        """Sent, and acknowledged."""
        for n in range(self._sent + 1, self._sent + count + 1):
            record = orders.AuditRecord(
                1, 0, 0, "omsd-alpha-1", TOKEN, n, "ORDER_PLACED", "strategy-mm", n, {"order_id": f"o-{n}"}
            )  # fmt: skip
            daemons.wait_for("room on the link", lambda r=record: self.omsd.send(codec.encode(r)))
        self._sent += count
        daemons.receive(
            self.omsd.socket,
            orders.decode_coming_back,
            lambda message: isinstance(message, orders.AuditSeen) and message.up_to == self._sent,
        )

    def status(self, *alarms: str) -> control.Status:
        """The first status with just these alarms. It says what trading needs: ready, healthy."""
        found: control.Status = self.auditd.until(
            lambda message: (
                isinstance(message, control.Status) and [each.id for each in message.alarms] == list(alarms)
            )
        )
        assert found.healthy
        return found

    def signed(self) -> int:
        """The newest record that is signed."""
        lines = audit_signatures.read(self.site / "audit.signatures")
        return max((line.statement.seq for line in lines if line.statement is not None), default=0)

    def forge(self, count: int) -> None:
        """Log and head anew, consistent in themselves."""
        shutil.rmtree(self.site / "audit")
        (self.site / "audit.head").unlink()
        log = audit_log.AuditLog(self.site / "audit", self.site / "audit.head", file_bytes_max=1 << 20)
        for n in range(1, count + 1):
            log.append(
                timestamp=n, action="ORDER_PLACED", user="strategy-mm", sender=(7, "omsd", 1), audit_seq=n,
                details={"order_id": f"forged-{n}"},
            )  # fmt: skip
        log.close()

    def verify(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = main.run(["audit", "verify", str(self.site / "audit"), *words, "-o", "json"])
        return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Floor]:
    with daemons.daemon(tmp_path, "auditd", {"sign_every_s": 0.05, "head_every_s": 0.05}) as auditd:
        one = Floor(tmp_path, auditd)
        yield one
        one.omsd.close()


@pytest.fixture
def trusted(floor: Floor, tmp_path: Path) -> Path:
    """What the operator copied off the host after the first start."""
    floor.start()
    floor.records(20)
    copy = tmp_path / "off-the-host.pub"
    daemons.wait_for("a signed head", lambda: floor.signed() == 20)
    shutil.copy(floor.site / "audit.pub", copy)
    return copy


def kinds(said: dict[str, Any]) -> list[str]:
    return [finding["kind"] for finding in said["findings"]]


def test_a_running_auditd_signs_and_an_operator_verifies_with_a_copied_key(
    floor: Floor, trusted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = floor.verify(capsys, "--key", str(trusted))
    found = said["signatures"]
    assert (code, kinds(said), found["checked_with"], found["younger"]) == (0, [], "given", 0)
    assert (found["signed"]["seq"], found["signed"]["site"], found["signed"]["service"]) == (
        20,
        "lab",
        "auditd",
    )
    kept = f"{found['signed']['seq']}:{found['signed']['hash']}"
    floor.records(5)
    floor.auditd.until(
        lambda message: isinstance(message, control.Status) and message.gauges.get("audit_signed_seq") == 25
    )
    assert floor.auditd.end() == 0
    assert floor.signed() == 25, "the last act"
    elsewhere = floor.folder / "elsewhere"
    shutil.copytree(floor.site, elsewhere)
    capsys.readouterr()
    assert main.run(f"audit verify {elsewhere}/audit --key {trusted} --at-least {kept}".split()) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"{elsewhere}/audit: whole; tail checked at record 25 (audit.head)"
    assert second.startswith(
        f"signed by key {found['signed']['key']} (site lab, service auditd) up to record 25"
    )
    assert second.endswith(f"0 younger records rest on the unkeyed chain; checked with {trusted}")
    assert third.startswith("keep 25:")


def test_kill_9_leaves_a_log_that_is_signed_and_raises_nothing(
    floor: Floor, trusted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        floor.records(50)
        floor.auditd.end(signal.SIGKILL)
        code, said = floor.verify(capsys, "--key", str(trusted))
        assert (code, kinds(said)) == (0, [])
        floor.start()
        floor.status()


def test_a_forged_log_and_head_are_refused_with_the_trusted_key_and_recorded_by_auditd(
    floor: Floor, trusted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floor.auditd.end()
    floor.forge(20)
    (floor.site / "audit.signatures").unlink()
    (floor.site / "audit.pub").unlink()
    code, said = floor.verify(capsys)
    assert (code, kinds(said), said["signatures"]["signed"]) == (0, [], None), (
        "what the unkeyed chain can say"
    )
    code, said = floor.verify(capsys, "--key", str(trusted))
    assert (code, kinds(said)) == (1, ["unsigned"])
    floor.start()
    alarms = floor.status("audit.rewritten", "audit.signatures").alarms
    assert {each.severity for each in alarms} == {"critical"}
    floor.records(5)
    floor.auditd.end()
    code, said = floor.verify(capsys, "--key", str(trusted))
    assert (code, kinds(said)) == (1, ["rewritten"]), "the key signs no forgery that does not say so itself"


def test_a_log_cut_with_its_head_and_signatures_is_recorded_at_the_next_start(
    floor: Floor, trusted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = floor.verify(capsys, "--key", str(trusted))
    kept = f"{said['signatures']['signed']['seq']}:{said['signatures']['signed']['hash']}"
    older = {path.name: path.read_bytes() for path in floor.site.iterdir() if path.is_file()}
    log = (floor.site / "audit" / "1.jsonl").read_bytes()
    floor.records(30)
    daemons.wait_for("a newer signed head", lambda: floor.signed() == 50)
    _, said = floor.verify(capsys, "--key", str(trusted))
    newer = f"{said['signatures']['signed']['seq']}:{said['signatures']['signed']['hash']}"
    floor.auditd.end()
    (floor.site / "audit" / "1.jsonl").write_bytes(log)
    for name, content in older.items():
        (floor.site / name).write_bytes(content)
    assert floor.verify(capsys, "--key", str(trusted), "--at-least", kept)[0] == 0, "what was true once"
    code, said = floor.verify(capsys, "--key", str(trusted), "--at-least", newer)
    assert (code, kinds(said)) == (1, ["cut_tail"])
    floor.start()
    floor.status("audit.tail_lost", "audit.signatures")
    floor.auditd.end()
    assert kinds(floor.verify(capsys, "--key", str(trusted))[1]) == ["tail_lost"]


@pytest.mark.parametrize("what", ["lost", "damaged", "exposed"])
def test_without_its_key_auditd_goes_on_with_another_and_says_so(
    floor: Floor, trusted: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    floor.auditd.end()
    key = floor.data / "audit.key"
    match what:
        case "lost":
            key.unlink()
        case "damaged":
            key.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
        case "exposed":
            key.chmod(0o644)
    floor.start()
    floor.records(5)
    status = floor.status("audit.key")
    assert (status.alarms[0].severity, status.ready) == ("warning", True) and what in status.alarms[0].text
    floor.auditd.end()
    code, said = floor.verify(capsys, "--key", str(trusted))
    assert (code, kinds(said)) == (1, ["unknown_key"])
    begun = said["signatures"]["keys"][-1]
    assert (begun["why"], begun["from_seq"], begun["vouched"]) == (what, 20, False)
    assert said["signatures"]["signed"]["seq"] == 20
    both = ("--key", str(trusted), "--key", str(floor.site / "audit.pub"))
    assert floor.verify(capsys, *both)[0] == 0
    capsys.readouterr()
    main.run(["audit", "verify", str(floor.site / "audit"), *both])
    assert f"signs from record 20 on ({what}); key {begun['previous']} does not vouch for it" in (
        capsys.readouterr().out
    )


def test_a_key_beside_the_log_is_said_to_prove_nothing_against_a_forger(
    floor: Floor, trusted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floor.auditd.end()
    assert main.run(["audit", "verify", str(floor.site / "audit")]) == 0
    said = capsys.readouterr().out
    assert (
        "checked with the key found beside the log, which whoever can write there could have replaced" in said
    )
    assert "copy audit.pub off the host" in said
    for name in ("audit.signatures", "audit.pub"):
        (floor.site / name).unlink()
    assert main.run(["audit", "verify", str(floor.site / "audit")]) == 0
    assert "not signed: no signature beside it, so all 20 records rest on the unkeyed chain" in (
        capsys.readouterr().out
    )


def test_a_disk_that_is_full_under_the_key_stops_signatures_and_nothing_else(
    floor: Floor, capsys: pytest.CaptureFixture[str]
) -> None:
    floor.data.mkdir()
    with disks.small_disk(floor.data, "64k"):
        filler = disks.fill(floor.data)
        try:
            floor.auditd.spawn()  # its fences are on that disk too, so no omsd attaches
            floor.auditd.greet()
            status = floor.status("audit.unsigned")
            assert status.ready and "No space left on device" in status.alarms[0].text
        finally:
            filler.unlink()
        floor.status()
        floor.auditd.end(signal.SIGTERM)
        floor.start()
        floor.records(5)
        filler = disks.fill(floor.data)
        floor.records(5)
        floor.status("audit.unsigned")
        filler.unlink()
        floor.status()
        floor.auditd.end()
        assert floor.verify(capsys, "--key", str(floor.site / "audit.pub"))[0] == 0 and floor.signed() == 10


def test_a_flood_is_signed_before_it_is_too_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever `sign_every_s` says: `audit verify` takes more than 10,000 unsigned records for a finding."""
    with daemons.daemon(tmp_path, "auditd", {"sign_every_s": 3600.0}) as auditd:
        floor = Floor(tmp_path, auditd)
        try:
            floor.start()
            for _ in range(40):
                floor.records(500)
            heads = [
                line.statement.seq
                for line in audit_signatures.read(floor.site / "audit.signatures")
                if isinstance(line.statement, audit_statement.SignedHead)
            ]
            gaps = [later - earlier for earlier, later in zip([0, *heads], [*heads, 20_000], strict=True)]
            assert len(heads) >= 2 and max(gaps) <= audit_statement.UNSIGNED_MAX
            auditd.end(signal.SIGKILL)
            code, said = floor.verify(capsys)
            assert (code, kinds(said)) == (0, []) and 0 < said["signatures"]["younger"] < 10_000
        finally:
            floor.omsd.close()
