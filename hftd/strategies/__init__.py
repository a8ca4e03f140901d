"""Strategies: pure deciders behind one interface, chosen by name.

Others use base.py (what a strategy sees and says) and `BY_NAME`: the values of strategyd's setting
`strategy`.
"""

from collections.abc import Callable, Mapping

from hftd.strategies import base, market_making

BY_NAME: Mapping[str, Callable[[Mapping[str, object]], base.Strategy]] = {
    market_making.MarketMaking.name: market_making.MarketMaking
}

__all__ = [
    "BY_NAME",
    "base",
]
