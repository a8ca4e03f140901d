"""The feed's frames and the questions beside it, byte by byte."""

from __future__ import annotations

import pytest

from controlplane.errors import InvalidInput
from hftd.wire import codec, feed, market, requests

GOLDEN = (
    "46440100020000000700000000000000e803000000000000"  # type, version, 2 lines, sequence 7, session 1000
    "0300000002000000d2029649000000007b7d"  # instrument 3, flags 0, 2 bytes, receive 1234567890: {}
    "04000000030000000500000000000000616263"
)
LINES = [(3, 1234567890, b"{}"), (4, 5, b"abc")]


def test_golden_bytes() -> None:
    assert feed.pack(LINES, 7, 1000).hex() == GOLDEN


def test_what_is_packed_reads_back() -> None:
    data = bytes.fromhex(GOLDEN)
    assert feed.header(data) == feed.Header(7, 1000, 2)
    assert list(feed.lines(data)) == [feed.Line(3, 0, 1234567890, b"{}"), feed.Line(4, 0, 5, b"abc")]


def test_a_beat_has_no_lines_and_breaks_no_count() -> None:
    beat = feed.beat(9, 1000)
    assert beat.hex() == "46440100000000000900000000000000e803000000000000"
    assert (feed.header(beat), list(feed.lines(beat))) == (feed.Header(9, 1000, 0), [])
    reader = feed.Reader()
    for frame in (bytes.fromhex(GOLDEN), beat, beat, feed.pack(LINES, 9, 1000)):
        head = feed.header(frame)
        assert not reader.is_new_session(head) and reader.follows(head)


def test_a_reader_sees_lost_frames_and_new_sessions_but_the_first() -> None:
    reader = feed.Reader()
    first = feed.Header(sequence=7, session=1000, lines=2)
    assert not reader.is_new_session(first) and reader.follows(first)
    assert not reader.is_new_session(first._replace(sequence=12)) and reader.expected == 9
    assert not reader.follows(first._replace(sequence=12)), "three lines are lost"
    assert reader.follows(first._replace(sequence=14))
    anew = feed.Header(sequence=1, session=1001, lines=1)
    assert reader.is_new_session(anew) and not reader.is_new_session(anew), "said once"
    assert reader.follows(anew)


def test_an_empty_frame_has_no_lines() -> None:
    assert list(feed.lines(feed.pack([], 1, 1))) == []


@pytest.mark.parametrize("cut", [0, 5, 23, 30, 41, 50])
def test_a_cut_frame_is_refused_after_what_came_before(cut: int) -> None:
    with pytest.raises(InvalidInput):
        list(feed.lines(bytes.fromhex(GOLDEN)[:cut]))


def test_a_length_beyond_the_frame_is_refused() -> None:
    data = bytearray.fromhex(GOLDEN)
    data[feed.HEADER.size + 4 : feed.HEADER.size + 8] = b"\xff\xff\xff\xff"
    with pytest.raises(InvalidInput, match="claims"):
        list(feed.lines(bytes(data)))


@pytest.mark.parametrize("data", [market.frame([], 1, 1), b"\0" * 24])
def test_another_frame_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="type"):
        feed.header(data)


ENVELOPE = (1, 2, 3, "bookd-alpha-1", None)
INSTRUMENT = requests.Instrument(4, "usdm", "BTCUSDT", -8, -8, "linear")


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (requests.InstrumentsWanted(*ENVELOPE), "9601010203ad626f6f6b642d616c7068612d31c0"),
        (requests.SnapshotWanted(*ENVELOPE, 4), "9703010203ad626f6f6b642d616c7068612d31c004"),
        (requests.Credit(*ENVELOPE, 1000, 4096), "9805010203ad626f6f6b642d616c7068612d31c0cd03e8cd1000"),
    ],
)
def test_golden_questions(message: requests.Asked, golden: str) -> None:
    assert codec.encode(message).hex() == golden
    assert requests.decode_asked(bytes.fromhex(golden)) == message


@pytest.mark.parametrize(
    ("message", "golden"),
    [
        (
            requests.Instruments(*ENVELOPE, [INSTRUMENT]),
            "9702010203ad626f6f6b642d616c7068612d31c0919604a47573646da742544355534454f8f8a66c696e656172",
        ),
        (
            requests.SnapshotFrame(*ENVELOPE, 4, 9, b"{}"),
            "9904010203ad626f6f6b642d616c7068612d31c00409c4027b7d",
        ),
    ],
)
def test_golden_answers(message: requests.Answered, golden: str) -> None:
    assert codec.encode(message).hex() == golden
    assert requests.decode_answered(bytes.fromhex(golden)) == message


def test_reference_data_round_trips_and_has_a_name() -> None:
    assert requests.decode_instrument(requests.encode_instrument(INSTRUMENT)) == INSTRUMENT
    assert INSTRUMENT.name == "usdm:BTCUSDT"


def test_what_does_not_decode_is_invalid_input() -> None:
    for decode in (requests.decode_asked, requests.decode_answered, requests.decode_instrument):
        with pytest.raises(InvalidInput):
            decode(b"\x01")
