"""omsd's journal on its way to the standbys, and a leader's journal on its way into ours.

What a common point is, who is electable and which records a standby takes: engine/orders/replica.py; here are
the two sockets and the journal between them.
Asynchronous: an order does not wait for a standby, a standby is electable within replica.WINDOW records. A
standby finds its leader among its own service's peers, attaches with the ends of its journal, sets its tail
aside where it must, and follows. The tail is set aside in the journal's thread; meanwhile the standby hears
nothing of its leader, is not electable, and waits with a lead that it is given (`busy`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from controlplane.errors import InvalidInput
from controlplane.model import Process, host_of
from hftd import bus, runtime
from hftd.engine.orders import oms, replica, term
from hftd.storage import journal as journals
from hftd.wire import codec, orders

CHUNK = 200
"""Records read and sent to one standby in one turn of the loop."""
SILENCE_NS = 1_000_000_000
"""A standby that has heard nothing for this long attaches again; that costs a leader nothing."""
STANDBY_SILENCE_NS = 2_000_000_000
"""A leader that has heard nothing from a standby for this long does not call it electable."""
ALONE_NS = 5_000_000_000
"""After this long without the records of a leader that is there: an alarm."""


Aside = journals.SetAside[oms.Oms]


class Replication:
    def __init__(
        self,
        context: runtime.Context,
        journal: journals.Journal,
        *,
        make_head: Callable[[], codec.Head],
        on_record: Callable[[oms.Journaled], None],
        set_aside: Callable[[int], Future[Aside] | None],
        shorten: Callable[[Future[Aside]], Aside],
        audited: Callable[[], int],
        on_audited: Callable[[int], None],
        on_tail: Callable[[Aside], None],
        confirmed: Callable[[int], int],
        on_confirmed: Callable[[int], None],
    ) -> None:
        """`on_record` takes each record of the leader that is in our journal now; `on_tail` what was set
        aside. `set_aside` and `shorten`: Ledger's.
        """
        self._context, self._journal, self._head = context, journal, make_head
        self._on_record, self._on_tail = on_record, on_tail
        self._set_aside, self._shorten = set_aside, shorten
        self._cutting: Future[Aside] | None = None
        """Our tail is being set aside."""
        self._audited, self._on_audited = audited, on_audited
        self._confirmed, self._on_confirmed = confirmed, on_confirmed
        self.router = bus.link.Router(context.bind("replica"))
        self.dealer = bus.link.Dealer(f"{context.instance}.{context.process.pid}")
        self.standbys = replica.Standbys(STANDBY_SILENCE_NS)
        self.follower = replica.StandbyTail()
        self._leading = False
        self._electable: list[Process] | None = None
        self._said = 0
        """Last sequence acknowledged to the leader."""
        self._heard_ns = self._tried_ns = self._followed_ns = time.monotonic_ns()

    # --- roles ----------------------------------------------------------------------------------------------

    def lead(self) -> None:
        """The lead is taken: stop following; nobody is electable until it has attached to us."""
        self._leading = True
        self.follower.reset()
        self.dealer.connect(None)
        self._context.clear("replication")
        self._say_electable([])

    def stand_by(self) -> None:
        self._leading = False
        self.standbys.clear()
        self.follower.reset()
        self._electable = None
        self._followed_ns = time.monotonic_ns()
        self.find()

    def find(self) -> None:
        """Connect to the leader among our peers, if there is one and it is not us."""
        if self._leading:
            return
        peers = self._context.peers(self._context.service)
        leaders = [
            peer
            for peer in peers
            if peer.role == "leader"
            and peer.instance != self._context.instance
            and "replica" in peer.endpoints
        ]
        newest = max(leaders, key=lambda peer: peer.epoch, default=None)
        endpoint = newest.endpoints["replica"] if newest else None
        if endpoint != self.dealer.endpoint:
            self.follower.reset()
            self.dealer.connect(endpoint)
        self._tried_ns = 0

    # --- a leader's side ------------------------------------------------------------------------------------

    def on_standby(self, identity: bytes, frame: bytes) -> None:
        message = self._decoded(frame)
        now_ns = time.monotonic_ns()
        match message:
            case orders.ReplicaAttach() if self._leading:
                if not host_of(message.process.instance, self._context.service):
                    raise InvalidInput(
                        f"{message.process.instance!r} is no instance of {self._context.service}"
                    )
                epoch, sequence = replica.common_point(
                    self._journal.ends(), message.ends, self._journal.oldest_seq
                )
                answer = orders.ReplicaFrom(*self._head(), epoch, sequence, self._audited())
                if self.router.send(identity, codec.encode(answer)):
                    tail = bool(message.ends) and message.ends[-1][1] > sequence
                    self.standbys.attach(identity, message.process.process(), sequence, now_ns, tail=tail)
            case orders.ReplicaSeen() if self._leading:
                self.standbys.seen(identity, message.sequence, now_ns)
            case _:
                pass  # not leading (any more): it finds the new leader by itself

    def pump(self) -> bool:
        """Send each standby what it lacks; True when there is more to send at once."""
        more = False
        for identity, standby in self.standbys.of.items():
            stream = standby.stream
            if stream.sent >= self._journal.last_seq or stream.room <= 0:
                continue
            for record in self._journal.read(stream.sent, limit=min(stream.room, CHUNK)):
                on_wire = orders.ReplicaRecord(
                    *self._head(),
                    record.epoch,
                    record.sequence,
                    record.payload,
                    stream.sent,
                    self._audited(),
                    self._confirmed(record.sequence),
                )
                if not self.router.send(identity, codec.encode(on_wire)):
                    break
                stream.send(record.sequence)
            else:
                more = more or stream.sent < self._journal.last_seq
        return more

    def _say_electable(self, processes: list[Process]) -> None:
        if processes != self._electable:
            self._electable = processes
            self._context.lease.electable(processes)
            self._context.log(
                "electable", instances=",".join(process.instance for process in processes) or "nobody"
            )

    # --- a standby's side -----------------------------------------------------------------------------------

    def on_leader(self, frame: bytes) -> None:
        message = self._decoded(frame)
        if self._leading or self.busy or message is None or message.token is None:
            return
        leader = term.of(message.token)
        if self.follower.stale(leader, self._journal.last_epoch):
            self._context.count("stale_token_refusals")
            return
        self._heard_ns = time.monotonic_ns()
        match message:
            case orders.ReplicaFrom():
                self._begin(leader, message.sequence)
                self._on_audited(min(message.audited, self._journal.last_seq))
            case orders.ReplicaRecord():
                self._take(leader, message)
            case _:
                self._context.count("unexpected")

    def _begin(self, leader: int, common: int) -> None:
        """Raises InvalidInput for a point that our journal does not have: nothing is set aside for it."""
        last = self._journal.last_seq
        if not 0 <= common <= last:
            raise InvalidInput(f"the leader begins after record {common}, and this journal ends at {last}")
        kept = self.follower.keeps(leader, common)
        self._cutting = self._set_aside(kept)
        if self._cutting is not None:
            self.follower.reset()
            return
        self.follower.begin(leader, last)
        self._said = -1

    @property
    def busy(self) -> bool:
        """Our tail is being set aside: the journal cannot be written, and what it says is about to change."""
        return self._cutting is not None

    def _end_cut(self) -> None:
        """Greet again once the tail is aside: the answer to the ends of our journal as they are now lets us
        begin.
        """
        cutting = self._cutting
        if cutting is None or not cutting.done():
            return
        self._cutting = None
        self._tried_ns = 0
        before = self._journal.last_seq
        try:
            aside = self._shorten(cutting)
        except journals.JournalFull as exc:
            self._full(exc)
            return
        after = self._journal.last_seq
        self._context.event("journal.set_aside", records=len(aside.records), after=after, before=before)
        self._on_tail(aside)

    def _take(self, leader: int, record: orders.ReplicaRecord) -> None:
        """Raises InvalidInput for what is no record of this leader's journal: once in ours, it would keep us
        from starting.
        """
        takes = self.follower.takes(record.previous, record.sequence, self._journal.last_seq)
        if takes is None and self.follower.attached:
            self.follower.reset()  # records are missing in between
            self._tried_ns = 0
        if not takes:
            return
        replica.check(leader, record, self._journal.last_epoch)
        message = oms.decode_journaled(record.payload)
        try:
            self._journal.append(record.epoch, record.payload, record.sequence)
        except journals.JournalFull as exc:
            self._full(exc)
            return
        self.follower.taken(record.sequence)
        # A leader that is ahead of us in the audit is so by records that we do not have yet.
        self._on_audited(min(record.audited, record.sequence))
        self._on_record(message)
        if record.confirmed:
            self._on_confirmed(record.confirmed)

    def _full(self, exc: journals.JournalFull) -> None:
        """Follow no further, and do not greet before there is room (`Ledger.found_room` clears the alarm): a
        leader would take a standby that greets for one that follows.
        """
        self.follower.reset()
        self._context.alarm(
            "journal_full",
            "critical",
            f"this standby does not follow the leader, and will not be electable: {exc}",
        )

    def acknowledge(self) -> None:
        """Each turn: tell the leader how far we are, once for all records read."""
        if not self._leading and self.follower.attached and self._said != self._journal.last_seq:
            self._seen()

    def _seen(self) -> None:
        self._said = self._journal.last_seq
        self.dealer.send(codec.encode(orders.ReplicaSeen(*self._head(), self._said)))

    def _attach(self, now_ns: int) -> None:
        self._tried_ns = now_ns
        ends = self._journal.ends()[-orders.ENDS_MAX :]
        process = codec.ProcessOnWire.of(self._context.process)
        self.dealer.send(codec.encode(orders.ReplicaAttach(*self._head(), process, ends)))

    # --- time -----------------------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> None:
        """Every few ms: greet, and say who is electable."""
        self._end_cut()
        if self.busy:
            self._followed_ns = now_ns
            return
        self._context.lease.replicated(self._journal.last_seq)
        if self._leading:
            self._say_electable(self.standbys.electable(self._journal.last_seq, now_ns))
            return
        if self.dealer.endpoint is None:
            self._followed_ns = now_ns
            return
        quiet_ns = now_ns - max(self._heard_ns, self._tried_ns)
        if self.follower.attached and quiet_ns > SILENCE_NS:
            self._attach(now_ns)  # nothing new, or a leader that has forgotten us: the answer tells
        elif (
            not self.follower.attached
            and now_ns - self._tried_ns > SILENCE_NS // 20
            and "journal_full" not in self._context.alarms
        ):
            self._attach(now_ns)
        if self.follower.attached:
            self._followed_ns = now_ns
        if now_ns - self._followed_ns > ALONE_NS:
            self._context.alarm(
                "replication",
                "warning",
                "this standby does not get the leader's journal and will not be electable",
            )
        else:
            self._context.clear("replication")

    def _decoded(self, frame: bytes) -> orders.Replica | None:
        try:
            return orders.decode_replica(frame)
        except InvalidInput as exc:
            self._context.undecodable(str(exc))
            return None
