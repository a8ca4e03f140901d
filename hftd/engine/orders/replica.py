"""Replication of a journal: where two journals agree, what a standby takes, who is close enough to be
elected.

Pure. Records are (epoch, sequence), where the epoch is a term (engine/orders/term.py). Two journals that both
hold (term, sequence) agree on everything before it: one process writes a term, and a standby takes a record
only directly after the one that the leader names as its predecessor. So the common point is the end of the
highest term that both know, and what a standby has beyond it was never replicated: it is set aside in a file,
not lost (storage/journal.py).

A new leader leaves a hole: its first sequence is a multiple of TERM_STRIDE, well above its last. What its
predecessor wrote and did not replicate, but perhaps sent to auditd, thus never shares a sequence with the
records of the new term.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.errors import InvalidInput
from controlplane.model import Process
from hftd.wire.orders import ReplicaRecord

TERM_STRIDE = 1_000_000
TERM_MARGIN = 100_000
"""More than a leader can have written beyond an electable standby: WINDOW, and what comes until its keeper
has taken it off the list."""
WINDOW = 1_000
"""Records on their way to one receiver and not yet acknowledged: the lag within which a standby is
electable."""

STANDBYS_MAX = 64
SEQUENCE_MAX = 1 << 62
"""Beyond it there would be no room for another term in 63 bits."""


def first_of_term(last_seq: int) -> int:
    """The sequence at which a new leader begins."""
    return ((last_seq + TERM_MARGIN) // TERM_STRIDE + 1) * TERM_STRIDE


def common_point(
    leader: Sequence[tuple[int, int]], standby: Sequence[tuple[int, int]], oldest_seq: int
) -> tuple[int, int]:
    """The last record that both journals hold, as (term, sequence); (0, 0) when there is none.

    `leader` and `standby` say where each term ends, `oldest_seq` is the leader's first record: it can stream
    from there on only.
    """
    ends = dict(leader)
    for known, sequence in sorted(standby, reverse=True):
        if known in ends:
            common = min(sequence, ends[known])
            return (known, common) if common >= oldest_seq else (0, 0)
    return (0, 0)


def check(leader_term: int, record: ReplicaRecord, last_term: int) -> None:
    """Raises InvalidInput for what the leader of `leader_term` cannot have in its journal behind a record of
    `last_term`.
    """
    if not last_term <= record.epoch <= leader_term:
        raise InvalidInput(
            f"record {record.sequence} of term {record.epoch}, behind {last_term} and under {leader_term}"
        )
    if record.sequence > SEQUENCE_MAX:
        raise InvalidInput(f"record {record.sequence}: a journal ends at {SEQUENCE_MAX}")


class Stream:
    """How far one receiver of the journal is: what was sent, what it has acknowledged; at most `window`
    records between the two.
    """

    __slots__ = ("_flying", "seen", "sent", "window")

    def __init__(self, after: int, window: int = WINDOW) -> None:
        self.sent = self.seen = after
        self.window = window
        self._flying: deque[int] = deque()

    @property
    def room(self) -> int:
        return self.window - len(self._flying)

    def lag(self, last_seq: int) -> int:
        """Records that the receiver may not have yet. Over the hole between two terms it is far above any
        window, until the new term was begun.
        """
        return len(self._flying) + max(0, last_seq - self.sent)

    def send(self, sequence: int) -> None:
        self._flying.append(sequence)
        self.sent = sequence

    def acknowledge(self, up_to: int) -> None:
        flying = self._flying
        while flying and flying[0] <= up_to:
            flying.popleft()
        self.seen = max(self.seen, min(up_to, self.sent))

    def rewind(self) -> None:
        """Send again from the last acknowledged record on."""
        self.sent = self.seen
        self._flying.clear()


def unaudited(ends: Sequence[tuple[int, int]], audited: int) -> int:
    """How many records of a journal with these ends (term, last sequence) are above `audited`."""
    count = previous = 0
    for at, (_, last) in enumerate(ends):
        first = first_of_term(previous) if at or last >= TERM_STRIDE else 1
        count += max(0, last - max(audited, first - 1))
        previous = last
    return count


@dataclass(slots=True)
class Standby:
    process: Process
    stream: Stream
    heard_ns: int
    confirmed: bool
    """False for one that has attached with a tail beyond the common point and has said nothing since: it is
    setting that aside."""


class Standbys:
    """The leader's side: who follows, from where, and who is electable."""

    def __init__(self, silence_ns: int) -> None:
        self._silence_ns = silence_ns
        self.of: dict[bytes, Standby] = {}
        """By the identity of its link."""

    def attach(
        self, identity: bytes, process: Process, after: int, now_ns: int, *, tail: bool = False
    ) -> Standby:
        """A standby begins (again) after `after`, where it has to set a `tail` aside or not; an older link of
        the same instance is forgotten: that process is gone. Beyond STANDBYS_MAX so is the one that has been
        silent for longest.
        """
        self.of = {link: each for link, each in self.of.items() if each.process.instance != process.instance}
        if len(self.of) >= STANDBYS_MAX:
            del self.of[min(self.of, key=lambda link: self.of[link].heard_ns)]
        self.of[identity] = Standby(process, Stream(after), now_ns, not tail)
        return self.of[identity]

    def seen(self, identity: bytes, sequence: int, now_ns: int) -> None:
        standby = self.of.get(identity)
        if standby is not None:
            standby.stream.acknowledge(sequence)
            standby.heard_ns, standby.confirmed = now_ns, True

    def electable(self, last_seq: int, now_ns: int) -> list[Process]:
        """Within the window, whether the records are on their way already or not yet. A silent standby is no
        candidate, and neither is one that is setting its tail aside.
        """
        return sorted(
            (
                each.process
                for each in self.of.values()
                if each.confirmed
                and each.stream.lag(last_seq) <= each.stream.window
                and now_ns - each.heard_ns <= self._silence_ns
            ),
            key=lambda process: process.instance,
        )

    def clear(self) -> None:
        self.of.clear()


class StandbyTail:
    """The standby's side: what to do with each message of a leader, given where the own journal ends."""

    def __init__(self) -> None:
        self.attached = False
        self._leader = 0
        """Highest term of a leader heard; a lower one is a leader that does not know yet that it is none."""
        self._agreed = 0
        """Our journal is that leader's up to here. A term has one process, which only adds to its journal, so
        an answer of its that names an earlier point was written before it had our acknowledgement."""

    def reset(self) -> None:
        self.attached = False

    def stale(self, leader_term: int, last_term: int) -> bool:
        """A leader below what we know; `last_term` is that of our last record, perhaps our own."""
        return leader_term < max(self._leader, last_term)

    def keeps(self, leader_term: int, common: int) -> int:
        """The record after which our tail is to be set aside, when a leader names this common point: never
        one before what we have agreed on with it already.
        """
        return max(common, self._agreed) if leader_term == self._leader else common

    def begin(self, leader_term: int, last_seq: int) -> None:
        """Our journal ends with a record that this leader has, too."""
        self._leader, self._agreed = leader_term, last_seq
        self.attached = True

    def taken(self, sequence: int) -> None:
        """A record that `takes` was true for is in our journal."""
        self._agreed = sequence

    def takes(self, previous: int, sequence: int, last_seq: int) -> bool | None:
        """True: append it. False: we have it. None: records are missing in between; attach again."""
        if sequence <= last_seq:
            return False
        return True if self.attached and previous == last_seq else None
