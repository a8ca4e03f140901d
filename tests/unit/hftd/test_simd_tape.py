"""When a line of the tape leaves: by its receive time, never hurried, never lost, and applied only after it
was sent.
"""

from __future__ import annotations

from collections.abc import Iterable

from hftd.daemons.simd import tape
from hftd.venues import replay
from hftd.wire import feed

MS = 1_000_000


def line(ms: int, number: int = 1) -> replay.Line:
    return replay.Line(ms * MS, 0, b'{"n":%d}' % ms, "tape.gz", number)


class Rig:
    def __init__(self, lines: Iterable[replay.Line | replay.BadLine], speed: int = 1, skip: int = 0) -> None:
        self.open = True
        self.frames: list[bytes] = []
        self.sent: list[int] = []
        self.skipped: list[int] = []
        self.bad: list[replay.BadLine] = []
        self.gaps: list[tuple[int, int]] = []
        self.ends = 0
        self.feeder = tape.Feeder(
            lines,
            tape.Pace(speed),
            session=7,
            skip=skip,
            send=self._send,
            on_skipped=lambda batch: self.skipped.extend(each.receive_ns // MS for each in batch),
            on_sent=lambda batch: self.sent.extend(each.receive_ns // MS for each in batch),
            on_bad=self.bad.append,
            on_gap=lambda line, gap_ns: self.gaps.append((line.receive_ns // MS, gap_ns // MS)),
            on_end=self._end,
        )

    def _send(self, frame: bytes) -> bool:
        if self.open:
            self.frames.append(frame)
        return self.open

    def _end(self) -> None:
        self.ends += 1

    def turn(self, ms: float) -> float | None:
        due_ns = self.feeder.turn(int(ms * MS))
        return None if due_ns is None else due_ns / MS


def test_lines_leave_when_they_are_due_and_the_turn_says_when_the_next_is() -> None:
    rig = Rig([line(100), line(100), line(105), line(150)])
    assert rig.turn(1000) == 1005 and rig.sent == [100, 100]
    assert rig.turn(1004) == 1005 and rig.sent == [100, 100]
    assert rig.turn(1006) == 1050 and rig.sent == [100, 100, 105]


def test_ten_times_the_speed_is_a_tenth_of_the_wait() -> None:
    rig = Rig([line(100), line(200)], speed=10)
    assert rig.turn(0) == 10


def test_what_is_due_together_leaves_in_one_frame_with_session_and_sequence() -> None:
    rig = Rig([line(1, 1), line(1, 2), line(9, 3)])
    rig.turn(0)
    rig.turn(8)
    assert [feed.header(frame) for frame in rig.frames] == [feed.Header(1, 7, 2), feed.Header(3, 7, 1)]
    assert [(each.receive_ns, each.raw) for each in feed.lines(rig.frames[0])] == [(1 * MS, b'{"n":1}')] * 2


def test_a_beat_says_what_comes_next_also_when_the_tape_has_ended() -> None:
    rig = Rig([line(1), line(9)])
    for ms in (None, 0, None, None, 8, None, 9, None):
        if ms is None:
            rig.feeder.beat()  # none is needed where a line has left since the last
        else:
            rig.turn(ms)
    assert rig.feeder.ended
    found = [feed.header(frame) for frame in rig.frames]
    assert [(head.sequence, head.lines) for head in found] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    reader = feed.Reader()
    assert all(not reader.is_new_session(head) and reader.follows(head) for head in found)


def test_there_is_no_beat_while_lines_are_read_again() -> None:
    rig = Rig([line(n) for n in range(5)], skip=3)
    rig.feeder.beat()
    assert rig.frames == []
    rig.turn(0)
    rig.feeder.beat()
    assert [feed.header(frame).lines for frame in rig.frames] == [0]


def test_at_full_speed_frames_are_bounded_and_orders_get_their_turn() -> None:
    rig = Rig([line(n) for n in range(1000)], speed=0)
    assert rig.turn(5) == 5
    assert len(rig.sent) == tape.TURN_BATCHES_MAX * feed.BATCH_MAX
    while rig.turn(5) is not None:
        pass
    assert (
        rig.sent == list(range(1000))
        and max(feed.header(frame).lines for frame in rig.frames) == feed.BATCH_MAX
    )


def test_the_tape_stands_still_while_nobody_pulls_and_goes_on_where_it_stood() -> None:
    """Nothing is applied before it is sent, nothing is hurried afterwards."""
    rig = Rig([line(100), line(101), line(110)])
    rig.open = False
    assert rig.turn(0) == 1 and rig.feeder.paused and rig.sent == []
    assert rig.turn(5000) == 5001 and rig.sent == []
    rig.open = True
    assert rig.turn(6000) == 6001 and rig.sent == [100] and not rig.feeder.paused
    assert rig.turn(6001) == 6010
    assert rig.turn(6010) is None and rig.sent == [100, 101, 110]


def test_a_line_out_of_order_leaves_at_once() -> None:
    rig = Rig([line(100), line(90), line(101)])
    assert rig.turn(0) == 1 and rig.sent == [100, 90]


def test_bad_lines_are_said_and_the_rest_goes_on() -> None:
    wrong = replay.BadLine("tape.gz", 2, "not JSON")
    rig = Rig([line(1), wrong, line(1, 3)])
    assert rig.turn(0) is None
    assert rig.bad == [wrong] and rig.sent == [1, 1]


def test_the_end_is_said_once() -> None:
    rig = Rig([line(1)])
    assert [rig.turn(0), rig.turn(1), rig.turn(2)] == [None, None, None]
    assert rig.ends == 1 and rig.feeder.ended and rig.feeder.position == 1


def test_after_a_crash_sent_lines_are_read_again_in_slices_and_not_sent() -> None:
    rig = Rig([line(n) for n in range(2500)], speed=0, skip=2400)
    turns = 0
    while rig.feeder.rebuilding:
        assert rig.turn(0) == 0 and not rig.frames
        turns += 1
    assert turns == 3 and rig.skipped == list(range(2400))
    while rig.turn(0) is not None:
        pass
    assert (
        rig.sent == list(range(2400, 2500))
        and rig.feeder.position == 2500
        and feed.header(rig.frames[0]).sequence == 1
    )


def test_a_tape_that_is_shorter_than_it_was_ends() -> None:
    rig = Rig([line(1), line(2)], skip=10)
    assert rig.turn(0) == 0
    assert rig.turn(0) is None and rig.ends == 1 and rig.sent == []


def test_bad_lines_are_read_a_share_a_turn_so_that_orders_get_their_turn() -> None:
    many = [replay.BadLine("tape.gz", number, "not JSON") for number in range(1, 2_501)]
    rig = Rig([*many, line(1)])
    assert rig.turn(0) == 0 and len(rig.bad) == tape.BAD_LINES_A_TURN and not rig.feeder.ended
    assert rig.turn(0) == 0 and rig.turn(0) is None
    assert rig.bad == many and rig.sent == [1]


def test_bad_lines_while_the_tape_is_read_again_end_nothing() -> None:
    many = [replay.BadLine("tape.gz", number, "not JSON") for number in range(1, 2_501)]
    rig = Rig([line(1), *many, line(2), line(3)], skip=2)
    while rig.feeder.rebuilding:
        assert rig.turn(0) == 0
    assert rig.turn(0) is None and (rig.skipped, rig.sent) == ([1, 2], [3])


def test_a_gap_that_is_too_long_is_not_waited_for_and_is_told_once() -> None:
    hour = 3_600_000
    rig = Rig([line(100), line(hour), line(hour + 50), line(200), line(260)])
    assert rig.turn(0) == 50 and rig.sent == [100, hour]
    assert rig.gaps == [(hour, hour - 100)]
    assert rig.turn(20) == 50
    assert rig.turn(50) == 110 and rig.sent[2:] == [hour + 50, 200], "back again, and at its own pace"
    assert rig.gaps[1:] == [(200, 200 - hour - 50)]
    assert rig.turn(110) is None and len(rig.gaps) == 2


def test_a_gap_below_the_bound_is_waited_for_and_at_full_speed_there_are_none() -> None:
    minutes = tape.GAP_NS_MAX // MS
    assert Rig([line(100), line(100 + minutes)]).turn(0) == minutes
    rig = Rig([line(100), line(100 + 10 * minutes)], speed=0)
    assert rig.turn(0) is None and not rig.gaps and len(rig.sent) == 2


def due_ms(pace: tape.Pace, place_ms: int, now_ms: int) -> int:
    return pace.due_ns(place_ms * MS, now_ms * MS) // MS


def test_the_tape_goes_on_from_where_it_is_when_its_speed_changes() -> None:
    pace = tape.Pace(1)
    assert due_ms(pace, 1_000, 0) == 0
    assert due_ms(pace, 3_000, 500) == 2_000
    pace.follow(10, 500 * MS)
    assert due_ms(pace, 3_000, 500) == 650, "1.5 s of the tape are left"
    pace.follow(1, 600 * MS)
    assert due_ms(pace, 3_000, 600) == 1_100
    pace.follow(0, 700 * MS)
    assert due_ms(pace, 9_000, 700) == 700, "as fast as it goes"
    pace.follow(1, 800 * MS)
    assert due_ms(pace, 9_100, 800) == 800 and due_ms(pace, 9_200, 800) == 900


def test_a_speed_that_changes_while_the_tape_stands_still_makes_up_for_nothing() -> None:
    pace = tape.Pace(1)
    assert due_ms(pace, 0, 0) == 0 and due_ms(pace, 1_000, 100) == 1_000
    pace.hold(400 * MS)
    pace.follow(10, 900 * MS)
    pace.release(1_000 * MS)
    assert due_ms(pace, 1_000, 1_000) == 1_060, "600 ms of the tape were left when it stopped"
