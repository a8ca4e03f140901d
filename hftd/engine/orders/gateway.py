"""execd without sockets: who may send orders to the venue, which reports are not acknowledged yet, and whose
answer this is.

Pure; the fences that it asks are on disk (storage/fences.py). Rules R10 and R11: execd is a group too. Before
it is ACTIVE the venue has acknowledged its own token and those of its client groups; a client's FENCE is
acknowledged only then, with the fence on disk here and at the venue. There is no queue of orders to drop: an
order that cannot go at once is refused, and what still waits in a socket meets the raised fence when it is
read. Orders come over the link that fenced, and no other (ADR 0033). A report is kept from the venue's word
until the order manager has acknowledged it, and sent again to each newly fenced one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from controlplane.model import Phase, Process, Token
from hftd.engine import reasons
from hftd.engine.orders import ids
from hftd.wire import codec, orders

REQUESTS_MAX = 1_000
"""Questions to the venue without an answer; the oldest is forgotten (its asker asks again)."""


LINKS_MAX = 64
"""Links that have fenced here and may still cancel; the oldest is forgotten."""


class Fences(Protocol):
    """What is needed of storage/fences.py."""

    def admit(self, token: codec.AnyToken, claimant: Process) -> bool: ...
    def refuses(self, token: codec.AnyToken | None) -> bool: ...
    def conflict(self, token: codec.AnyToken, claimant: Process) -> str: ...
    def objection(self, token: codec.AnyToken, claimant: Process) -> str: ...
    def highest(self, group: str) -> Token | None: ...
    def claimant(self, group: str) -> Process | None: ...


@dataclass(frozen=True, slots=True)
class VenueFence:
    """One fence at the venue: this token of its group, claimed by this process."""

    token: Token
    claimant: Process

    @property
    def key(self) -> tuple[str, int]:
        return (self.token.group, self.token.epoch)


@dataclass(slots=True)
class _Asked:
    identity: bytes
    claim: VenueFence
    held: bool = False
    """On disk here."""
    at_venue: bool = False
    """The venue has acknowledged it."""


class Gateway:
    """The fencing state machine: STANDBY, FENCING (the venue has not acknowledged yet), ACTIVE."""

    def __init__(self, fences: Fences) -> None:
        self._fences = fences
        self.phase = Phase.STANDBY
        self.token: Token | None = None
        self.on_wire: codec.TokenOnWire | None = None
        self.refusal = ""
        """Why the venue refused the last fence."""
        self._first: VenueFence | None = None
        """Our own."""
        self._own: list[VenueFence] = []
        """Not acknowledged by the venue yet; our own stands first."""
        self._asked: dict[tuple[str, int], _Asked] = {}
        """Clients that wait for the venue, by (group, epoch)."""
        self.links: dict[str, bytes] = {}
        """Group -> the link that fenced last; its orders are taken, and its reports go there."""
        self._session = 0
        """The venue's, as it said last."""
        self._fenced: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        """Every (group, link) that has fenced here."""

    def __repr__(self) -> str:
        return f"<Gateway {self.phase.name.lower()} {self.token}, links {sorted(self.links)}>"

    # --- its own lead ---------------------------------------------------------------------------------------

    def lead(self, token: Token, process: Process, clients: Iterable[VenueFence]) -> bool:
        """Begin: True when all fences stand here and the venue is to be fenced now (`outstanding`); False:
        one could not be written, try again.
        """
        self.token, self.on_wire, self.refusal = token, codec.TokenOnWire.of(token), ""
        self.phase = Phase.FENCING
        self._asked.clear()
        self.links.clear()
        # Own token first: the venue refuses a client's fence from a gateway that it does not know.
        self._first = VenueFence(token, process)
        self._own = [self._first]
        return not [claim for claim in clients if not self._hold_client(claim)]  # every one is tried

    def _hold_client(self, claim: VenueFence) -> bool:
        held = self._fences.admit(claim.token, claim.claimant)
        token, claimant = self._fences.highest(claim.token.group), self._fences.claimant(claim.token.group)
        if token is None or claimant is None or (not held and VenueFence(token, claimant) == claim):
            return False  # not refused, so not written
        # Our disk may know a higher token than the file, or the claimant that the file has lost. A closed
        # epoch has none that could be named to the venue, and need not: its orders pass through here.
        if claimant.pid:
            self._own.append(VenueFence(token, claimant))
        return True

    def stand_by(self) -> None:
        self.phase = Phase.STANDBY
        self._own.clear()
        self._asked.clear()
        self.links.clear()

    def outstanding(self) -> list[VenueFence]:
        """Fences that the venue has still to acknowledge for us; sent again until it has."""
        return list(self._own) if self.phase is Phase.FENCING else []

    # --- a client's fence -----------------------------------------------------------------------------------

    def fence(self, identity: bytes, claim: VenueFence) -> str:
        """Ask for a client's fence: "" when the venue is to be asked next, else why it is refused."""
        if self.phase is not Phase.ACTIVE:
            return reasons.NOT_ACTIVE
        objection = self._fences.conflict(claim.token, claim.claimant)
        if objection:
            return objection
        if self._elsewhere(identity, claim):
            return reasons.WRONG_LINK
        self._asked[claim.key] = _Asked(identity, claim)
        if self.links.get(claim.token.group) != identity:
            self.links.pop(claim.token.group, None)  # the predecessor's link hears nothing more
        return ""

    def _elsewhere(self, identity: bytes, claim: VenueFence) -> bool:
        """Has this very claim another link already? A process has one link for life."""
        asked = self._asked.get(claim.key)
        if asked is not None:
            return asked.identity != identity and asked.claim == claim
        known = self.links.get(claim.token.group, identity)
        return known != identity and self._fences.highest(claim.token.group) == claim.token

    def hold(self, claim: VenueFence) -> str:
        """Write the client's fence to disk here; "" when it stands, BEING_WRITTEN while the disk takes its
        time (`written` goes on). Before the acknowledgement, beside the venue's own writing.
        """
        asked = self._asked.get(claim.key)
        if self._fences.admit(claim.token, claim.claimant):
            if asked is not None:
                asked.held = True
            return ""
        objection = self._fences.objection(claim.token, claim.claimant)
        if objection != reasons.BEING_WRITTEN:
            self._asked.pop(claim.key, None)
        return objection

    def written(self) -> list[tuple[bytes, VenueFence, str]]:
        """The disk has ended a write: who can be told now, and why not ("": fenced)."""
        told = []
        for asked in list(self._asked.values()):
            if asked.held:
                continue
            objection = self._fences.objection(asked.claim.token, asked.claim.claimant)
            asked.held = not objection
            if objection == reasons.BEING_WRITTEN or (asked.held and not asked.at_venue):
                continue
            del self._asked[asked.claim.key]
            if asked.held:
                self._link(asked)
            told.append((asked.identity, asked.claim, objection))
        return told

    def _link(self, asked: _Asked) -> None:
        """Fenced here and at the venue: orders of the group come over this link from now on."""
        group = asked.claim.token.group
        self.links[group] = asked.identity
        self._fenced[group, asked.identity] = None
        if len(self._fenced) > LINKS_MAX:
            self._fenced.popitem(last=False)

    def venue_fenced(self, answer: orders.Fenced) -> tuple[bytes, VenueFence] | None:
        """The venue's answer. Returns the client that can be told so now, with its claim; own fences are only
        ticked off.
        """
        if self._is_new(answer.session):
            return None
        key = (answer.group, answer.epoch)
        mine = self.token is not None and key == (self.token.group, self.token.epoch)
        if mine and not answer.ok:
            self._own = self._own or [self._first] if self._first else []
            self.phase = Phase.FENCING if self.phase is Phase.ACTIVE else self.phase
        elif self.phase is Phase.FENCING and not answer.waits:
            # A client's fence is settled by any other answer: the venue refuses only what is not above its
            # fence, or closes the group until it can write.
            self._own = [claim for claim in self._own if claim.key != key]
            self.phase = Phase.FENCING if self._own else Phase.ACTIVE
        self.refusal = "" if answer.ok or answer.waits else answer.reason
        waiting = self._asked.get(key)
        if waiting is None:
            return None
        if answer.ok and not waiting.held:
            waiting.at_venue = True
            return None
        del self._asked[key]
        if answer.ok:
            self._link(waiting)
        return waiting.identity, waiting.claim

    def _is_new(self, session: int) -> bool:
        """A venue that was restarted: what it said of fences, orders and executions may not have arrived. It
        is fenced once more, and so are we by our order managers, who reconcile then.
        """
        known, self._session = self._session, session or self._session
        if not session or not known or session == known or self._first is None:
            return False
        self.phase = Phase.FENCING if self.phase is Phase.ACTIVE else self.phase
        self._own = self._own or [self._first]
        self._asked.clear()
        self.links.clear()
        return True

    # --- orders ---------------------------------------------------------------------------------------------

    def objection(self, identity: bytes, token: codec.TokenOnWire | None, leads: bool) -> str:
        """Why an order (or a question) with this token over this link is refused; "" when it passes."""
        if self.phase is not Phase.ACTIVE or not leads:
            return reasons.NOT_ACTIVE
        if token is None or self._fences.refuses(token):
            return reasons.STALE_TOKEN
        link = self.links.get(token.group)
        if link == identity:
            return ""
        return reasons.NOT_FENCED if link is None else reasons.WRONG_LINK

    def cancel_objection(self, identity: bytes, token: codec.TokenOnWire | None, order_id: str) -> str:
        """Cancels of orders of one's own or an older epoch always pass, valid lease or not, over each link
        that has fenced the order's group here, deposed since or not.

        While that group has no link (we are new, or a fence is on its way to the venue) they pass over any:
        the leader that fences next cancels everything anyway, and until it can, nobody else could.
        """
        if self.on_wire is None or token is None:
            return reasons.NOT_ACTIVE if self.on_wire is None else reasons.STALE_TOKEN
        # An id does not name the incarnation: who leads now may cancel whatever its predecessors left, also
        # those of an incarnation in which the epochs were higher.
        if ids.epoch_of(order_id) > token.epoch and not self.speaks_for(identity, token):
            return reasons.STALE_TOKEN
        group = ids.group_of(order_id)
        if self.links.get(group, identity) == identity or (group, identity) in self._fenced:
            return ""
        return reasons.WRONG_LINK

    def speaks_for(self, identity: bytes, token: codec.TokenOnWire | None) -> bool:
        """Is this the link that fenced its group last?"""
        return (
            token is not None and self.links.get(token.group) == identity and not self._fences.refuses(token)
        )

    def foreign(self, identity: bytes, token: codec.TokenOnWire | None) -> bool:
        """Is this the token that passes, over another link than the one that fenced it?"""
        return (
            token is not None
            and not self._fences.refuses(token)
            and self.links.get(token.group, identity) != identity
        )


@dataclass(slots=True)
class _Kept:
    """The reports of one group, the last `unsent` of which were not sent to its present link."""

    reports: deque[orders.Report] = field(default_factory=deque)
    unsent: int = 0


class Reports:
    """Reports that the order managers have not acknowledged: of each group in the venue's order, numbered
    from 1 over all groups in this process. A group that cannot be reached holds up no other.
    """

    def __init__(self, kept_max: int) -> None:
        """`kept_max`: of one group."""
        self._of: dict[str, _Kept] = {}
        self.kept_max = kept_max
        """Where it is lowered, what is kept stays until it is acknowledged or others come."""
        self.last_id = 0
        self.lost = 0
        """Dropped unacknowledged; executions among them are asked for at the next take-over."""

    def __len__(self) -> int:
        return sum(len(kept.reports) for kept in self._of.values())

    def add(self, group: str, report: orders.Report) -> None:
        self.last_id += 1
        kept = self._of.setdefault(group, _Kept())
        kept.reports.append(codec.replace(report, report_id=self.last_id))
        kept.unsent += 1
        if len(kept.reports) > self.kept_max:
            kept.reports.popleft()
            kept.unsent = min(kept.unsent, len(kept.reports))
            self.lost += 1

    def seen(self, group: str, up_to: int) -> None:
        """Its order manager has them up to here; of what it was not sent this is not believed."""
        kept = self._of.get(group, _Kept())
        while len(kept.reports) > kept.unsent and kept.reports[0].report_id <= up_to:
            kept.reports.popleft()

    def again(self, group: str) -> None:
        """To its newly fenced order manager: everything that is kept."""
        kept = self._of.get(group, _Kept())
        kept.unsent = len(kept.reports)

    def pump(self, send: Callable[[str, orders.Report], bool]) -> None:
        """Send what was not sent yet, each group's in order, until `send(group, report)` refuses one."""
        for group, kept in self._of.items():
            if not kept.unsent:
                continue
            for report in islice(kept.reports, len(kept.reports) - kept.unsent, None):
                if not send(group, report):
                    break
                kept.unsent -= 1


class Questions:
    """Whose question each number at the venue is: two order managers may count alike."""

    def __init__(self) -> None:
        self._asked: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        self._last = 0

    def ask(self, identity: bytes, request: int) -> int:
        """A number of our own for it; identity b"" when we ask ourselves."""
        self._last += 1
        self._asked[self._last] = (identity, request)
        if len(self._asked) > REQUESTS_MAX:
            self._asked.popitem(last=False)
        return self._last

    def answered(self, request: int) -> tuple[bytes, int] | None:
        """Who asked, and under which number; None when that is forgotten."""
        return self._asked.pop(request, None)


class Orphans:
    """When to cancel everything: once, after no valid order manager was heard for a given time."""

    def __init__(self, after_ns: int, now_ns: int) -> None:
        self.after_ns, self._heard_ns = after_ns, now_ns
        self.fired = False

    def heard(self, now_ns: int) -> None:
        self._heard_ns, self.fired = now_ns, False

    def due(self, now_ns: int) -> bool:
        return not self.fired and now_ns - self._heard_ns >= self.after_ns
