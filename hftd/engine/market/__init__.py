"""Market data decided: books and their chain of update ids, bars, credit, a stream's silence, the offset of
two clocks, the ids of trades. Pure.
"""

__all__ = ["bars", "book", "books", "clock_offset", "credit", "silence", "trade_ids"]
