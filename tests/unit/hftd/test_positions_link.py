"""omsd tells positiond of executions whose ids have gaps: whatever is lost, comes late or is forgotten,
positiond calls nothing complete that it lacks, and has everything in the end.
"""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftd import bus, runtime
from hftd.daemons.omsd.receivers import PositionsLink
from hftd.engine.orders import oms
from hftd.engine.position import Seen
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState, Side

S = 1_000_000_000
decode: codec.Decoder[orders.Report | orders.ExecutionsTold] = codec.Decoder(
    orders.Report | orders.ExecutionsTold
)


def report(execution: int) -> orders.Report:
    return orders.Report(
        *codec.no_head("execd"), 0, execution, "omsd-1-1", "mm-1", "mm", "spot", "BTCUSDT", Side.BUY,
        OrderState.PARTIALLY_FILLED, 100, 10, 1, 100, 1, "", "", 0,
    )  # fmt: skip


class Wire:
    """Of a link: takes what is sent, until it is full."""

    identity = b"omsd-alpha-1.1"

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()

    def send(self, frame: bytes) -> bool:
        if len(self.frames) >= 5:
            return False
        self.frames.append(frame)
        return True


class Pair:
    """omsd's link, and a positiond that keeps what it has booked and forgets what it was told."""

    def __init__(self, memory: int) -> None:
        self.venue: list[int] = []
        self.mark, self.now_ns = 0, S
        self.known = oms.Oms("omsd", "riskd", oms.Bounds(9, 9, 9, memory), lambda token: True)
        self.seen, self.booked, self.wire = Seen(), set[int](), Wire()
        self.counts: dict[str, int] = {}
        context = SimpleNamespace(instance="omsd-alpha-1", process=SimpleNamespace(pid=1), count=self._count)
        self.link = PositionsLink(
            cast(runtime.Context, context),
            "positiond",
            lambda: self.known,
            lambda: min(self.mark, self.known.last_execution),
            lambda: codec.no_head("omsd"),
            lambda identity: pytest.fail("nobody attaches here"),
        )
        self.link.dealer.close()
        self.link.dealer = cast(bus.link.Dealer, self.wire)
        self.link.attached = True

    def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def execute(self, gap: int, said: bool) -> None:
        self.venue.append((self.venue[-1] if self.venue else 0) + gap)
        if said:
            self._learn(self.venue[-1])

    def _learn(self, execution: int) -> None:
        if not self.known.knows(execution):
            self.known._remember(report(execution))

    def list(self) -> None:
        """The venue tells all that omsd may not know."""
        for execution in self.venue:
            if execution > self.mark:
                self._learn(execution)
        self.mark = self.venue[-1] if self.venue else 0

    def pump(self) -> None:
        self.now_ns += S // 5
        after = self.link.pump(self.now_ns)
        if after is not None:
            self.link.backfill([report(each) for each in self.venue if each > after][:3], self.now_ns)

    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.wire.frames))):
            message = decode(self.wire.frames.popleft())
            if isinstance(message, orders.ExecutionsTold):
                self.seen.told(message.after, message.up_to, message.count)
            elif message.execution_id not in self.seen:
                self.seen.add(message.execution_id)
                self.booked.add(message.execution_id)
            assert {each for each in self.venue if each <= self.seen.up_to} <= self.booked, "it lacks one"
            self.link.acknowledged(self.seen.up_to, self.now_ns)

    def die(self, noticed: bool) -> None:
        """What was on its way is lost; what it was told of gaps is forgotten. `noticed`: it is attached
        anew.
        """
        self.wire.frames.clear()
        self.seen = Seen()
        for each in self.booked:
            self.seen.add(each)
        if noticed:
            self.link.begin(self.seen.up_to)

    def retry(self) -> None:
        self.now_ns += 6 * S
        self.link.retry(self.now_ns, S)


STEPS = st.one_of(
    st.tuples(st.just("execute"), st.sampled_from([1, 1, 2, 17, 1_000_003]), st.booleans()),
    st.tuples(st.just("list")),
    st.tuples(st.just("pump")),
    st.tuples(st.just("deliver"), st.integers(1, 5)),
    st.tuples(st.just("die"), st.booleans()),
    st.tuples(st.just("retry")),
)


@given(steps=st.lists(STEPS, max_size=60), memory=st.sampled_from([3, 1_000]))
@settings(max_examples=300, deadline=None)
def test_nothing_is_called_complete_that_lacks_one_and_all_come_in_the_end(
    steps: list[tuple[str, int, bool]], memory: int
) -> None:
    pair = Pair(memory)
    for step, *of in steps:
        getattr(pair, step)(*of)
    pair.execute(1_000, True)  # what positiond has forgotten shows at the next one
    pair.list()
    for n in range(1, 300):
        pair.pump()
        pair.deliver(5)
        if n % 50 == 0:
            pair.retry()
    assert pair.booked == set(pair.venue)
    assert pair.seen.up_to == pair.link.seen == pair.venue[-1]


def test_where_nothing_is_lost_each_execution_is_sent_once_and_gaps_are_told_of_once_a_list() -> None:
    pair = Pair(1_000)
    for n in range(40):
        pair.execute(7, True)
        pair.pump()
        pair.deliver(9)
        if n % 10 == 9:
            pair.list()
            pair.pump()
            pair.deliver(9)
            assert pair.link.seen == pair.venue[-1]
    pair.retry()
    assert not pair.counts


def test_dense_ids_need_no_word_of_gaps() -> None:
    pair = Pair(1_000)
    for _ in range(40):
        pair.execute(1, True)
        pair.list()
        pair.link.pump(pair.now_ns)
        frames = [decode(frame) for frame in pair.wire.frames]
        assert all(isinstance(frame, orders.Report) for frame in frames[:1])
        pair.deliver(9)
        assert pair.seen.up_to == pair.venue[-1]


def test_one_that_comes_late_is_sent_at_once_and_before_the_word_that_nothing_is_missing() -> None:
    pair = Pair(1_000)
    for said in (True, False, True):
        pair.execute(7, said)
    pair.pump()
    pair.deliver(9)
    assert pair.booked == {7, 21} and pair.seen.up_to == 0
    pair.list()
    pair.pump()
    pair.deliver(9)
    assert pair.booked == {7, 14, 21} and pair.seen.up_to == pair.link.seen == 21
    assert not pair.counts, "nothing was sent again"


def test_a_positiond_that_has_forgotten_what_it_was_told_says_so_and_is_told_again() -> None:
    pair = Pair(1_000)
    pair.execute(7, True)
    pair.list()
    pair.pump()
    pair.deliver(9)
    assert pair.link.seen == 7
    pair.die(False)
    pair.execute(7, True)
    pair.list()
    pair.pump()
    pair.deliver(9)
    assert pair.link.seen == 0, "it has less than it had said"
    pair.pump()
    pair.deliver(9)
    assert pair.seen.up_to == pair.link.seen == 14
