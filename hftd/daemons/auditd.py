"""auditd: keeps every order event in an append-only log whose records hold each other's hash.

Wiring only. The chain: engine/audit_chain.py; the files: storage/audit_log.py; its signed heads:
storage/audit_signer.py; the check: storage/audit_verify.py. A sender repeats its records until AuditSeen;
what comes twice is written once. Records are taken over a link that attached with its group's token, which a
stranger cannot (claim_check.py); over it nothing is refused for an older epoch: what an order manager did
before it was deposed is as much evidence as what came after. Nothing waits for a signature: what cannot be
signed is an alarm.
"""

from __future__ import annotations

import time
from collections import OrderedDict

from controlplane.errors import InvalidInput
from controlplane.model import in_range
from hftd import bus, runtime
from hftd.daemons import fence_keeping
from hftd.daemons.claim_check import ClaimCheck
from hftd.engine import audit_statement, reasons
from hftd.engine.orders import answers, replica
from hftd.settings import AuditSettings
from hftd.storage import audit_log, audit_signer, fences
from hftd.wire import codec, orders

LINKS_MAX = 64
"""Links that have attached, one for each order manager's process; the oldest is forgotten, and attaches
again."""

FromOmsd = orders.Attach | orders.AuditRecord
_from_omsd: codec.Decoder[FromOmsd] = codec.Decoder(FromOmsd)

SIGNING_ALARMS = {
    audit_signer.KEY: "warning",
    audit_signer.SIGNATURES: "critical",
    audit_signer.UNSIGNED: "warning",
}
"""Id of an alarm of the signer -> its severity."""


class Scribe:
    def __init__(self, context: runtime.Context, settings: AuditSettings) -> None:
        self.context, self.settings = context, settings
        site = context.site_dir
        self.signer = audit_signer.Signer(context.data_dir, site, site=context.site, service=context.service)
        self.log = audit_log.AuditLog(
            site / "audit",
            site / "audit.head",
            file_bytes_max=settings.file_bytes_max,
            signed=self.signer.signed,
        )
        self._signed_file = self.log.number
        self._sign_at = audit_statement.SIGN_AFTER
        """So many unsigned records are signed at once, after they are acknowledged."""
        self.fences = fences.Fences(context.data_dir / "fences.json", context.store_tokens.highest)
        self.claims = ClaimCheck(context)
        self.events = bus.link.Router(context.bind("events"))
        self._attached: OrderedDict[bytes, codec.TokenOnWire] = OrderedDict()
        """By link, the token that its process holds, or held."""
        self._to_acknowledge: dict[bytes, int] = {}
        self._stuck: dict[str, int] = {}
        """By group, the record that could not be written: those behind it wait until it has come again, else
        it would never be."""
        if self.log.torn_bytes:
            context.event("audit.torn_line", bytes=self.log.torn_bytes, after_seq=self.log.head.seq)
        if self.log.expected is not None:
            expected, found = self.log.expected.seq, self.log.head.seq
            context.event("audit.tail_lost", found_seq=found, head_seq=expected)
            text = (
                f"the log ended at record {found}, its head remembered record {expected}; recorded in "
                "the chain"
            )
            context.alarm("audit.tail_lost", "critical", text)
        if self.log.rewritten is not None:
            seq = self.log.rewritten.seq
            context.event("audit.rewritten", head_seq=seq)
            text = (
                f"the log holds another record {seq} than its head remembers, or none; recorded in the chain"
            )
            context.alarm("audit.rewritten", "critical", text)
        self.turns: runtime.Timer | None = None
        self._keep_up()
        self._sign()

    def configure(self, settings: AuditSettings) -> None:
        self.settings = settings
        self.log.file_bytes_max = settings.file_bytes_max
        if self.turns is not None:
            self.turns.set(settings.head_every_s / 2)

    def _failed(self, exc: OSError) -> None:
        reason = f"the audit log cannot be written ({exc.strerror or exc})"
        self.context.alarm("audit.disk", "critical", f"{reason}; nothing is acknowledged")
        self.context.health.set_healthy(False, reason)

    def _keep_up(self) -> None:
        try:
            self.log.record_loss(time.time_ns(), self.context.instance)
            self.log.sync()
        except OSError as exc:
            self._failed(exc)
        else:
            self.context.clear("audit.disk")
            self.context.health.set_healthy(True)
            self.context.set_ready(True)

    def _sign(self) -> None:
        """Sign the head that the disk has; while a loss is not in the chain, or the disk fails, there is
        none.
        """
        if self.log.synced == self.log.head:
            self._signed_file = self.log.number
            self.signer.sign(self.log.head, time.monotonic_ns(), time.time_ns())
        # From here, not from the last success: what cannot be signed is not tried with each record.
        self._sign_at = self.signer.unsigned(self.log.head) + audit_statement.SIGN_AFTER
        self.context.gauge("audit_signed_seq", self.log.head.seq - self.signer.unsigned(self.log.head))
        begun, self.signer.begun = self.signer.begun, None
        if begun is not None:
            self.context.event(
                "audit.key", key=begun.key, previous=begun.previous, why=begun.why, vouched=begun.vouched
            )
        for id, severity in SIGNING_ALARMS.items():
            if id in self.signer.problems:
                self.context.alarm(id, severity, self.signer.problems[id])
            else:
                self.context.clear(id)

    # --- events ---------------------------------------------------------------------------------------------

    def on_event(self, identity: bytes, frame: bytes) -> None:
        message = _from_omsd(frame)
        match message:
            case orders.Attach():
                self._on_attach(identity, message)
            case orders.AuditRecord():
                self._on_record(identity, message)

    def _on_attach(self, identity: bytes, attach: orders.Attach) -> None:
        ok, reason = self.claims.attach(identity, attach, self.fences)
        last = 0
        if attach.token is not None and reason != reasons.FORGED_CLAIM:
            last = self.log.last_of_group(attach.token.group)
            self._stuck.pop(attach.token.group, None)
            self._attached.pop(identity, None)
            self._attached[identity] = attach.token
            if len(self._attached) > LINKS_MAX:
                self._attached.popitem(last=False)
        self.events.send(identity, codec.encode(orders.Attached(*self.context.head(), ok, reason, last)))

    def _sender(self, identity: bytes, message: orders.AuditRecord) -> codec.TokenOnWire | None:
        """The token of the epoch that the record is of; None when the link has not attached for it.

        Raises:
            InvalidInput: a record that no order manager makes. Written, it would keep true ones out.
        """
        held, token = self._attached.get(identity), message.token
        if token is None or held is None or held.group != token.group:
            self.context.count("not_attached")
            refusal = answers.refusal(self.context.head(), None, reasons.NOT_ATTACHED)
            self.events.send(identity, codec.encode(refusal))
            return None
        if not in_range(token.incarnation, token.epoch) or token.token().rank > held.token().rank:
            raise InvalidInput(
                f"audit record of {token.group} {token.incarnation}/{token.epoch}, from the leader of "
                f"{held.incarnation}/{held.epoch}"
            )
        if not 0 < message.audit_seq <= replica.SEQUENCE_MAX:
            raise InvalidInput(
                f"audit record {message.audit_seq} of {token.group}: 1 to {replica.SEQUENCE_MAX} is possible"
            )
        return token

    def _on_record(self, identity: bytes, message: orders.AuditRecord) -> None:
        token = self._sender(identity, message)
        if token is None:
            return
        sender, audit_seq = (token.incarnation, token.group, token.epoch), message.audit_seq
        last, stuck = self.log.last_of(sender), self._stuck.get(token.group)
        if stuck is not None and audit_seq > stuck:
            self.context.count("waiting")
            return
        if audit_seq <= last:
            self.context.count("duplicates")
        else:
            if 0 < last < audit_seq - 1:
                self.context.count("gaps")
                self.context.event("audit.gap", epoch=token.epoch, missing_from=last + 1, next=audit_seq)
            try:
                self._write(message, sender)
            except OSError as exc:
                self._stuck[token.group] = audit_seq
                self._failed(exc)
                return
            self._stuck.pop(token.group, None)
            self.context.count("records")
        self._to_acknowledge[identity] = max(audit_seq, self._to_acknowledge.get(identity, 0))

    def _write(self, message: orders.AuditRecord, sender: tuple[int, str, int]) -> None:
        self.log.append(
            timestamp=message.timestamp_ns,
            action=message.action,
            user=message.user,
            details=dict(message.details),
            sender=sender,
            audit_seq=message.audit_seq,
        )

    def flush(self) -> None:
        """The input is empty: acknowledge what is kept."""
        if not self._to_acknowledge:
            return
        if self.settings.sync:
            try:
                self.log.sync()
            except OSError as exc:
                self._failed(exc)
                return
        for identity, up_to in self._to_acknowledge.items():
            self.events.send(identity, codec.encode(orders.AuditSeen(*self.context.head(), up_to)))
        self._to_acknowledge.clear()
        if self.signer.unsigned(self.log.head) >= self._sign_at:
            self._keep_up()
            self._sign()

    def each_turn(self, now_ns: int) -> None:
        self._keep_up()
        every_ns = 0 if self.log.number != self._signed_file else int(self.settings.sign_every_s * 1e9)
        if self.signer.due(self.log.head, now_ns, every_ns):
            self._sign()
        self.context.gauge("audit_seq", self.log.head.seq)

    def head(self, _: dict[str, object]) -> dict[str, str | int]:
        """For the store: never ahead of what is written."""
        return {"seq": self.log.head.seq, "hash": self.log.head.hash}

    def stop(self) -> None:
        self.flush()
        self.log.sync()
        if self.signer.unsigned(self.log.head):
            self._sign()
        self.log.close()


def build(context: runtime.Context, settings: AuditSettings) -> runtime.Loop:
    scribe = Scribe(context, settings)
    loop = runtime.Loop(context)
    loop.on_router(scribe.events.socket, scribe.on_event)
    loop.before_wait(scribe.flush)
    # Half: a turn that comes late still keeps the bound.
    scribe.turns = loop.every(settings.head_every_s / 2, scribe.each_turn)
    loop.on_settings(scribe.configure)
    loop.on_ask("head", scribe.head)
    fence_keeping.keep(loop, context, scribe.fences, scribe.claims)
    loop.on_stop(scribe.stop)
    return loop
