"""Market frames, byte by byte, and the batches that number them."""

from __future__ import annotations

import pytest

from controlplane.errors import InvalidInput
from hftd.wire import market

pytestmark = pytest.mark.usefixtures("decoder")

MESSAGE = market.Message(
    3, market.Kind.DIFF, 1, 10, 20, 30, 40, 50, 60, 70, [(1, 2), (3, 4)], [(5, -6)], b"xyz"
)
GOLDEN = (
    "444d0100010000000900000000000000e803000000000000"  # type, version, 1 message, sequence 9, session 1000
    # Instrument, kind, flags, 3 levels, 2 of them bids, 3 bytes of payload
    "03000201030000000200000003000000"
    "0a0000000000000014000000000000001e00000000000000"  # receive, event, origin
    "2800000000000000320000000000000 03c000000000000004600000000000000"  # first, last, previous, trade or bar
    "0100000000000000020000000000000003000000000000000400000000000000"
    "0500000000000000faffffffffffffff"
    "78797a"
).replace(" ", "")


def test_golden_bytes() -> None:
    data = market.frame([market.pack(MESSAGE)], 9, 1000)
    assert data.hex() == GOLDEN
    assert market.header(data) == market.Frame(9, 1000, 1)
    assert list(market.messages(data)) == [MESSAGE]


@pytest.mark.parametrize("cut", [3, 30, 100, 130, len(GOLDEN) // 2 - 1])
def test_a_cut_frame_is_refused(cut: int) -> None:
    with pytest.raises(InvalidInput):
        list(market.messages(bytes.fromhex(GOLDEN)[:cut]))


def test_a_batch_is_flushed_when_full_and_numbers_its_messages() -> None:
    batch, packed = market.Batch(1000), market.pack(MESSAGE)
    assert batch.flush() is None
    frames = [full for full in (batch.add(packed) for _ in range(market.BATCH_MAX + 3)) if full is not None]
    rest = batch.flush()
    assert [market.header(data) for data in frames] == [market.Frame(1, 1000, market.BATCH_MAX)]
    assert rest is not None and market.header(rest) == market.Frame(market.BATCH_MAX + 1, 1000, 3)
    assert batch.sequence == market.BATCH_MAX + 4


def test_a_top_is_packed_as_any_message() -> None:
    whole = market.Message(3, market.Kind.TOP, market.IN_STEP, 5, 6, 7, 0, 8, 0, 0, [(9, 10)], [(11, 12)])
    assert market.pack_top(3, 5, 6, 7, 8, (9, 10, 11, 12)) == market.pack(whole)
