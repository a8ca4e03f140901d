"""Run by test_native.py in a process of its own, with a native decoder that the sanitizers watch:
lines and frames that are almost right, for as long as HFT_FUZZ_S says, each held to the Python twin.

    python -m tests.fuzz.native_cases EXTENSION
"""

from __future__ import annotations

import importlib.util
import sys

spec = importlib.util.spec_from_file_location("hftd.native._market", sys.argv[1])
assert spec is not None and spec.loader is not None
checked = importlib.util.module_from_spec(spec)
sys.modules["hftd.native._market"] = checked  # before hftd.native.market asks for it
spec.loader.exec_module(checked)

from hftd.native import market as native  # noqa: E402
from hftd.venues import binance  # noqa: E402
from hftd.wire import market  # noqa: E402
from tests.fuzz import mutate  # noqa: E402
from tests.support import twins  # noqa: E402
from tests.unit.hftd import test_binance, test_market_wire  # noqa: E402

assert native.pack_line is checked.pack_line, "the build under test is the one that is used"

LINES = [
    test_binance.SPOT_DIFF,
    test_binance.FUTURES_DIFF,
    test_binance.SPOT_TICKER,
    test_binance.COINM_TICKER,
    test_binance.TRADE,
    test_binance.SNAPSHOT,
    binance.diff("BTCUSDT", 5, 7, 8, [(6180020000000, 290900000), (1, 1)], [(6180030000000, 0)]),
    binance.ticker("BTCUSDT", 6, (0, 0, 11, 2)),
    binance.trade("BTCUSDT", 5, 77, 10, 1, buyer_is_maker=True),
]
FRAMES = [bytes.fromhex(test_market_wire.GOLDEN)]


def line(raw: bytes) -> None:
    assert native.pack_line is not None and native.normalise is not None
    packed = native.pack_line(raw, "", 3, 7, 9)
    message = native.normalise(raw, "", 3, 7, 9, market.Message)
    assert (packed is None) is (message is None)
    if message is not None:
        with twins.python_alone():
            expected = binance.Normaliser("spot", 3, "")(raw, 7, 9)
        assert message == expected, (message, expected)
        assert packed == (message.kind, message.event_ns, market.pack(message))


def frame(data: bytes) -> None:
    assert native.unpack is not None
    found = native.unpack(data, market.Message)
    if found is not None:
        with twins.python_alone():
            assert found == [*market.messages(data)]


taken = [mutate.attack(line, LINES, "json", ()), mutate.attack(frame, FRAMES, "none", ())]
print(f"{sum(each['taken'] for each in taken)} cases")
