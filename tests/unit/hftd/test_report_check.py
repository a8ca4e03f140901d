"""What a report must say to be believed: tests/fault/test_rubbish_on_the_order_path.py has what omsd makes of
it.
"""

from __future__ import annotations

from typing import Any

import pytest

from hftd.engine.orders import report_check
from hftd.wire import codec, orders
from hftd.wire.orders import OrderState, Side

INT64_MAX = (1 << 63) - 1
GOOD = orders.Report(
    *codec.no_head("simd-alpha-1"), 0, 7, "omsd-1-1000001", "mm-1", "strategy-mm", "spot", "BTCUSDT",
    Side.BUY, OrderState.PARTIALLY_FILLED, 50_000, 1_000, 400, 50_001, 100, "", "", 1,
)  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"execution_id": 0, "state": OrderState.WORKING, "filled": 0, "last_price": 0, "last_quantity": 0},
        {"execution_id": INT64_MAX, "price": INT64_MAX, "quantity": INT64_MAX, "last_price": INT64_MAX},
        {"filled": 1_000, "last_quantity": 1_000, "state": OrderState.FILLED},
        {"order_id": "web_4711", "client_order_id": "", "strategy": ""},
        {"execution_id": 0, "last_quantity": -1},
    ],
    ids=str,
)
def test_what_can_be_is_believed(fields: dict[str, Any]) -> None:
    assert report_check.fault(codec.replace(GOOD, **fields)) == ""


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"order_id": ""}, "names no order"),
        ({"order_id": "omsd-1-" + "9" * 5_000}, "order_id of 5007 characters"),
        ({"symbol": "X" * 201}, "symbol of 201 characters"),
        ({"reason": "x" * 201}, "reason of 201 characters"),
        ({"text": "x" * 4_097}, "text of 4097 characters"),
        ({"state": OrderState.PENDING_NEW}, "PENDING_NEW, which is ours to say"),
        ({"state": OrderState.PENDING_CANCEL}, "PENDING_CANCEL, which is ours to say"),
        ({"price": 0}, "price 0,"),
        ({"price": 1 << 63}, f"price {1 << 63},"),
        ({"quantity": -1}, "quantity -1,"),
        ({"filled": -1}, "-1 filled of 1000"),
        ({"filled": 1_001}, "1001 filled of 1000"),
        ({"execution_id": -1}, "execution -1,"),
        ({"execution_id": (1 << 64) - 1}, f"execution {(1 << 64) - 1},"),
        ({"last_quantity": 401}, "quantity 401, 400 filled"),
        ({"last_quantity": 0}, "quantity 0, 400 filled"),
        ({"last_price": 0}, "price 0,"),
        ({"last_price": 1 << 63}, f"price {1 << 63},"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(fields: dict[str, Any], named: str) -> None:
    found = report_check.fault(codec.replace(GOOD, **fields))
    assert named in found and found.startswith("report of order ") and len(found) < 400
