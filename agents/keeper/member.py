"""One instance's part in its group, carried out: decide.py says what, this does it, one transaction at
a time.

Driven by `step`, which is called whenever something has changed: the watched view, the process's death, the
heartbeat, an answer, a tick. Close and stand down happen inside the call (a death zeroes the word before
anything is awaited); transactions run as tasks and step again when they end.

What it promises: the word is armed only after a good renewal or take of one's own (R6), with the send time of
that as its base (R3), after the fence file was written from the store (R11), and only while the lead for
which it was asked still stands unclosed (R7: late answers write nothing).
"""

from __future__ import annotations

import uuid
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agents.keeper import fence_target, protocol, settings, shown
from agents.keeper.kept_process import KeptProcess
from agents.keeper.seen_tokens import SeenTokens
from controlplane.clock import Clock
from controlplane.errors import HftctlError, InvalidInput
from controlplane.host import identity, log
from controlplane.leadership import budget, decide, transactions
from controlplane.leadership.group_view import Group, GroupView, Lead
from controlplane.model import Phase, Process
from controlplane.store import Keys, Store
from hftd.shm import fence_file

RETRY_S = 0.02
RETRY_S_MAX = 0.5
"""After a failed transaction: doubling from one to the other; a store election takes about a second."""

REREADS_MAX = 3
"""Lost compares in a row that are answered at once; then the retry delay counts, so that two keepers never
spin against each other."""

STEPS_MAX = 4
"""Actions of one step: a close is followed by the hand-over it makes necessary."""


class KeeperOf(Protocol):
    """What a member has in common with the others of its keeper."""

    store: Store
    keys: Keys
    shown: shown.Shown
    clock: Clock
    settings: settings.Settings
    seen_tokens: SeenTokens
    stopping: bool

    @property
    def leaving(self) -> bool: ...

    def successors(self) -> frozenset[Process]: ...

    def slots(self, service: str) -> frozenset[str]: ...

    def announced(self, process: Process) -> bool: ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None: ...

    def tell(self, message: protocol.FromKeeper) -> None: ...


@dataclass(frozen=True, slots=True)
class Decided:
    """A transaction to carry out, with what it was decided on."""

    action: decide.Action
    group: Group
    lead: Lead | None
    me: Process


class Member:
    def __init__(self, site: KeeperOf, instance: KeptProcess) -> None:
        self._site = site
        self.instance = instance
        self.service = instance.entry.service
        self.group: Group | None = None
        self.lead: Lead | None = None
        self.sentence = ""
        self._unreadable = ""
        """Why the records that the store shows cannot be used; empty: they can."""
        self._damaged: Mapping[str, str] = {}
        """Those among them that do not decode, with what is wrong: said already."""
        self._changed_ns = 0
        self._request_ns = 0
        self._renew_ns = 0
        self._retry_ns = 0
        self._failures = 0
        self._rereads = 0
        self._busy = False
        self._closed_wall_ns = 0
        self._fences_of: Lead | None = None
        self._fences: dict[str, fence_file.Target] = {}
        self._unwritten = ""
        """Why the fence file could not be written again; empty: it is as the store has it."""
        self._after: shown.AfterTake | None = None
        self._electable: tuple[Process, ...] | None = None
        self._electable_seen: tuple[Process, int] | None = None
        self._active: tuple[Lead, int] | None = None

    def __repr__(self) -> str:
        return f"Member({self.instance.entry.process.instance} of {self.service}: {self.sentence})"

    @property
    def idle(self) -> bool:
        """Leads nothing and has nothing in flight: may be dropped."""
        return self.lead is None and not self._busy

    @property
    def in_transition(self) -> bool:
        """Led, and not active yet: worth a closer look."""
        return self.lead is not None and self.lead.closed is None and self._active is None

    def lease_remaining_ms(self, now_ns: int) -> int:
        """Of the lead held here, until its word ends; of another's, until this keeper might time it out."""
        if self.lead is not None and self.instance.words.armed_for(self.lead):
            end_ns = self.instance.words.lease().valid_until_ns
        elif self.group is not None and self.group.holder is not None:
            end_ns = self._changed_ns + decide.lease_ns(self._site.settings.budget, self.group.leader)
        else:
            return 0
        return max(0, (end_ns - now_ns) // 1_000_000)

    def replace(self, instance: KeptProcess) -> None:
        """The instance has a new process; what the old one led is still this member's to hand over."""
        self.instance = instance

    def observe(self) -> None:
        """The store shows other records of this group, or of the site."""
        held = self.group
        try:
            site = self._site
            group = site.shown.group(
                site.keys, self.service, held, held=self._holds(), one_revision=site.store.one_revision
            )
        except InvalidInput as exc:
            self._unreadable = f"does not act: {exc}"
            self._say(self._unreadable)
            return
        self._unreadable = ""
        if held is not None and group.revision < held.revision:
            # What a transaction answered, or was read, is newer; the watch of groups may never come as far
            # while no group changes. Pause and incarnation have watches of their own: what those show is
            # taken even so, or a `resume` would not be seen.
            group = replace(
                held,
                paused=group.paused,
                pause_revision=group.pause_revision,
                incarnation=group.incarnation,
                incarnation_revision=group.incarnation_revision,
            )
        self._adopt(group)
        self.step()

    def _holds(self) -> bool:
        """The lead is ours, and its word says so for a while yet."""
        words, lead = self.instance.words, self.lead
        if lead is None or lead.closed is not None or not words.armed_for(lead):
            return False
        return self._site.clock.boot_ns() < words.lease().valid_until_ns

    def step(self) -> None:
        now_ns = self._site.clock.boot_ns()
        for _ in range(STEPS_MAX):
            decision = decide.decide(self._view(now_ns), now_ns)
            if self.group is not None or not self._unreadable:
                self._say(decision.sentence)
            if not decision.actions:
                return
            for action in decision.actions:
                self._perform(action)

    # --- what is known --------------------------------------------------------------------------------------

    def _view(self, now_ns: int) -> GroupView:
        instance, group, site = self.instance, self.group, self._site
        me = instance.entry.process
        holder = group.holder if group else None
        lead = self.lead
        if lead is not None and lead.closed is None:
            self._look_at_leader(lead)
        return GroupView(
            group=group,
            me=me,
            budget=site.settings.budget,
            runs=instance.watched.runs,
            fresh=instance.heartbeat.fresh,
            # R11: whoever may be elected can be fenced, so its endpoints are in the store before.
            ready=instance.entry.registration is not None and site.announced(me),
            home_ok=instance.entry.home_ok,
            slots=site.slots(self.service),
            lead=lead,
            word_closed=instance.words.closed_rank(me),
            word_armed=instance.words.armed_rank(me),
            changed_ns=self._changed_ns,
            request_ns=self._request_ns,
            renew_ns=self._renew_ns,
            holder_runs=holder is not None
            and holder.instance == me.instance
            and holder != me
            and identity.runs(holder),
            successors=site.successors() if lead is not None or holder is None else frozenset(),
            seen=site.seen_tokens.highest(self.service),
            electable=self._electable_news(group, lead),
            active=self._active is not None and self._active[0] is lead,
            stopping=site.stopping,
            leaving=site.leaving,
            ending=instance.entry.ending,
            free=not self._busy and now_ns >= self._retry_ns,
        )

    def _look_at_leader(self, lead: Lead) -> None:
        alive = self.instance.words.alive(lead.process, self._site.clock.boot_ns())
        if alive is None or alive.epoch != lead.epoch:
            return
        if self._active is None and alive.phase is Phase.ACTIVE:
            self._active = (lead, self._site.clock.wall_ns())
        seen = (lead.process, alive.electable_revision)
        if alive.electable_revision > 0 and seen != self._electable_seen:
            self._electable_seen = seen
            try:
                self._electable = self.instance.words.electable()
            except InvalidInput as exc:
                log.warning("electable.undecodable", service=self.service, reason=str(exc))

    def _electable_news(self, group: Group | None, lead: Lead | None) -> tuple[Process, ...] | None:
        if group is None or lead is None or lead.closed or self._electable is None:
            return None
        known = group.electable
        return (
            None
            if known and known.processes == self._electable and known.writer_epoch == lead.epoch
            else self._electable
        )

    def _adopt(self, group: Group) -> None:
        now_ns = self._site.clock.boot_ns()
        if self.group is None or group.leader_revision != self.group.leader_revision:
            self._changed_ns = now_ns  # R4: the receipt of a change, or the first look
        if self.group is None or group.request_revision != self.group.request_revision:
            self._request_ns = now_ns
        self.group = group
        for key in group.damaged.keys() - self._damaged.keys():
            log.warning(
                "record.damaged", key=key, reason=group.damaged[key], consequence="the last good one counts"
            )
        self._damaged = group.damaged
        if not group.rank < self._site.seen_tokens.highest(self.service):
            self._site.seen_tokens.raise_to(group)

    # --- what is done ---------------------------------------------------------------------------------------

    def _perform(self, action: decide.Action) -> None:
        match action:
            case decide.Close(lead, kill):
                # R7: the latch before the word. From here on no answer of an earlier renewal writes anything.
                self._lead_is(lead)
                self._closed_wall_ns = self._site.clock.wall_ns()
                self.instance.words.hand_over(lead)
                if kill:
                    self.instance.watched.kill()
            case decide.StandDown():
                if self.lead is not None and self.lead.closed is None:
                    self.instance.words.stand_by(self.lead)
                self._lead_is(None)
            case decide.Disarm(lead):
                self.instance.words.stand_by(lead)
            case _:
                # R5: what was decided on is what is compared. The task starts later, and a newer view may
                # have come in by then.
                assert self.group is not None
                decided = Decided(action, self.group, self.lead, self.instance.entry.process)
                self._busy = True
                self._site.spawn(self._transact(decided), f"{self.service}: {type(action).__name__}")

    async def _transact(self, decided: Decided) -> None:
        try:
            await self._carry_out(decided)
            self._failures = 0
        except HftctlError as exc:
            self._failed(exc)
        finally:
            self._busy = False
        self.step()

    def _failed(self, exc: HftctlError) -> None:
        delay_s = min(RETRY_S * 2**self._failures, RETRY_S_MAX)
        self._failures += 1
        self._retry_ns = self._site.clock.boot_ns() + int(delay_s * 1e9)
        if self._failures == 1:
            log.warning(
                "group.action_failed",
                service=self.service,
                instance=self.instance.entry.process.instance,
                doing=self.sentence,
                reason=str(exc),
            )

    async def _carry_out(self, decided: Decided) -> None:
        store, keys, clock = self._site.store, self._site.keys, self._site.clock
        group, lead, me = decided.group, decided.lead, decided.me
        nonce, sent_ns, wall_ns = uuid.uuid4().hex, clock.boot_ns(), clock.wall_ns()
        match decided.action:
            case decide.Renew():
                if self._settle(
                    group, await transactions.renew(store, keys, group, nonce, self._lease_ms(group, sent_ns))
                ):
                    await self._renewed(lead, sent_ns)
            case decide.WriteElectable(electable):
                lease_ms = self._lease_ms(group, sent_ns)
                if self._settle(
                    group, await transactions.write_electable(store, keys, group, electable, nonce, lease_ms)
                ):
                    await self._renewed(lead, sent_ns)
            case decide.Claim():
                await self._claim(group, me, nonce, sent_ns)
            case decide.Campaign(cause):
                own_ms = self._site.settings.budget.lease_ms
                if self._settle(
                    group,
                    await transactions.take(store, keys, group, me, nonce, cause, wall_ns, wall_ns, own_ms),
                ):
                    await self._won(me, sent_ns)
            case decide.HandOver(None, cause):
                if self._settle(
                    group, await transactions.release(store, keys, group, nonce, cause, self._closed_wall_ns)
                ):
                    self._lead_is(None)
            case decide.HandOver(Process() as to, cause):
                own_ms = self._site.settings.budget.lease_ms
                if self._settle(
                    group,
                    await transactions.take(
                        store, keys, group, to, nonce, cause, self._closed_wall_ns, wall_ns, own_ms
                    ),
                ):
                    self._lead_is(None)
                    if to == me:
                        await self._won(to, sent_ns)
            case decide.Settle(state, outcome):
                self._settle(group, await transactions.settle(store, keys, group, state, outcome))
            case decide.RecordActive():
                active_ns = self._active[1] if self._active else wall_ns
                self._settle(group, await transactions.record_active(store, keys, group, active_ns))

    def _settle(self, asked: Group, outcome: transactions.Done | transactions.Reread) -> bool:
        """Take over what the store says; True when the transaction's own answer says it was applied."""
        held = self.group
        if held is None or outcome.group.revision >= held.revision or held is asked:
            self._adopt(outcome.group)
        if isinstance(outcome, transactions.Done):
            self._rereads = 0
            return True
        self._rereads += 1
        if self._rereads > REREADS_MAX:
            self._retry_ns = self._site.clock.boot_ns() + int(RETRY_S * 1e9)
        return False

    async def _claim(self, group: Group, me: Process, nonce: str, sent_ns: int) -> None:
        """R6: named by another's hand-over, or restarted: renew first."""
        record = group.leader
        assert record is not None
        held: Lead | None = self.lead
        if held is not None:
            return  # closed before this began: it died, or the keeper stops (R7)
        lead = Lead(me, record.incarnation, record.epoch)
        if not self.instance.words.armed_for(lead):
            self.instance.words.stand_by(lead)
        self._lead_is(lead)
        lease_ms = self._lease_ms(group, sent_ns)
        if self._settle(
            group, await transactions.renew(self._site.store, self._site.keys, group, nonce, lease_ms)
        ):
            await self._renewed(lead, sent_ns)

    def _lease_ms(self, group: Group, sent_ns: int) -> int:
        """What a follower has to wait after this renewal. A word that is armed for longer than this renewal
        would arm it (the profile has become shorter) still stands under the lease of the one that armed it.
        """
        own, record = self._site.settings.budget, group.leader
        armed_until_ns = self.instance.words.lease().valid_until_ns
        if record is None or armed_until_ns <= sent_ns + own.renew_deadline_ns:
            return own.lease_ms
        return max(own.lease_ms, budget.believed_lease_ns(record.lease_ms) // 1_000_000)

    async def _won(self, process: Process, sent_ns: int) -> None:
        record = self.group.leader if self.group else None
        if record is None or record.holder != process or self.lead is not None:
            # A newer view has already come in: another leads, or this epoch was closed before its
            # answer came (R7)
            return
        lead = Lead(process, record.incarnation, record.epoch)
        self._lead_is(lead)
        await self._renewed(lead, sent_ns)

    async def _renewed(self, lead: Lead | None, sent_ns: int) -> None:
        """A good renewal (or take) of `lead`, sent at `sent_ns`: let the word say so, unless the lead has
        gone meanwhile.
        """
        group = self.group
        if lead is None or group is None or self.lead is not lead or lead.closed:
            return  # R7
        if self._fences_of is not lead:
            after = shown.AfterTake(group.epoch_revision)
            await self._fetch_missing(after)
            if self.lead is not lead:
                return
            self._write_fences(lead, after)
        if not self.instance.watched.runs or self.instance.entry.process != lead.process:
            return  # its death is about to be acted on
        self.instance.words.arm(lead, sent_ns + self._site.settings.budget.renew_deadline_ns)  # R3
        self._renew_ns = sent_ns + self._site.settings.budget.renew_every_ns

    def _lead_is(self, lead: Lead | None) -> None:
        self.lead = lead
        if lead is None or lead.closed is None:
            self._active = self._electable = self._electable_seen = None
            self._renew_ns = 0

    async def _fetch_missing(self, after: shown.AfterTake) -> None:
        site = self._site
        missing = after.missing(site.shown, self.instance.entry.fences, site.store.one_revision)
        await after.fetch(site.store, site.keys, missing)

    def follow_fences(self) -> None:
        """While leading: what another take or registration changes in the fence file is written (a new execd
        has to be fenced, too).
        """
        lead, after, site = self.lead, self._after, self._site
        if lead is None or after is None or self._fences_of is not lead:
            return
        if after.missing(site.shown, self.instance.entry.fences, site.store.one_revision):
            site.spawn(self._read_again(lead, after), f"{self.service}: fences")
            return
        self._rewrite_fences(lead, after)

    async def _read_again(self, lead: Lead, after: shown.AfterTake) -> None:
        try:
            await self._fetch_missing(after)
        except HftctlError as exc:
            log.warning("fences.not_read", service=self.service, reason=str(exc))
            return
        if self.lead is lead and self._fences_of is lead:
            self._rewrite_fences(lead, after)

    def _rewrite_fences(self, lead: Lead, after: shown.AfterTake) -> None:
        try:
            self._write_fences(lead, after)
            self._unwritten = ""
        except HftctlError as exc:
            if str(exc) != self._unwritten:  # tried again at each change, and said once
                log.warning("fences.not_written", service=self.service, reason=str(exc))
            self._unwritten = str(exc)

    def _write_fences(self, lead: Lead, after: shown.AfterTake) -> None:
        site = self._site
        named = (
            (
                group,
                fence_target.target_of(
                    *after.entries(site.shown, group, site.store.one_revision), site.keys, group
                ),
            )
            for group in self.instance.entry.fences
        )
        fences = {group: highest for group, highest in named if highest is not None}
        if self._fences_of is lead and fences == self._fences:
            return
        try:
            self.instance.words.write_fences(fences)
        except OSError as exc:
            raise InvalidInput(
                f"{self.instance.entry.lease}.fence: {exc.strerror}; the word is not armed without it"
            ) from exc
        self._fences_of, self._fences, self._after = lead, fences, after

    def _say(self, sentence: str) -> None:
        if sentence and sentence != self.sentence:
            self.sentence = sentence
            name = self.instance.entry.process.instance
            log.info("group.decision", service=self.service, instance=name, text=sentence)
            decision = protocol.Decision(self.service, name, sentence)
            self._site.tell(protocol.FromKeeper(event=decision))
