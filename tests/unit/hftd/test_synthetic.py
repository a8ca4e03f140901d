"""The synthetic market: reproducible, whole by the venue's rules, and alive on both sides."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

from hftd.engine.market import book
from hftd.venues import binance, synthetic
from hftd.wire import market

LINES = 12_000


def lines(seed: int) -> list[bytes]:
    return [
        b"%d %d %s" % (line.receive_ns, line.instrument, line.raw)
        for line in itertools.islice(synthetic.Synthetic(seed), LINES)
    ]


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    assert lines(7) == lines(7) != lines(8)


def test_the_bytes_do_not_change_between_versions() -> None:
    digest = hashlib.sha256(b"\n".join(itertools.islice(lines(1), 2_000))).hexdigest()
    assert digest == "c28286defe20e628cc5db8b39fbf316b8a493df05dd67b92756a62c2473f0f98"


def test_it_is_whole_never_crosses_agrees_with_its_own_tickers_and_trades_both_ways() -> None:
    source = synthetic.Synthetic(3)
    normalise = [binance.Normaliser(one.market, one.id, one.symbol) for one in source.instruments]
    books = [book.Book() for _ in normalise]
    seen: Counter[tuple[int, object]] = Counter()
    before_ns = 0
    for line in itertools.islice(source, LINES):
        assert line.receive_ns >= before_ns
        before_ns = line.receive_ns
        message = normalise[line.instrument](line.raw, line.receive_ns)
        assert isinstance(message, market.Message), (message, line.raw)
        assert message.event_ns <= line.receive_ns
        one = books[line.instrument]
        outcome = one.apply(message)
        assert outcome in (None, book.APPLIED) or isinstance(outcome, book.Restored)
        assert not one.crossed
        seen[line.instrument, message.flags if message.kind == market.Kind.TRADE else message.kind] += 1
        if message.kind == market.Kind.TICKER and message.last == one.at_diff:
            assert one.best() == message.bids[0] + message.asks[0]
            seen[line.instrument, "compared"] += 1
    for one in source.instruments:
        assert seen[one.id, 0] > 500 and seen[one.id, market.BUYER_IS_MAKER] > 500
        assert seen[one.id, "compared"] > 500 and seen[one.id, market.Kind.SNAPSHOT] == 1
