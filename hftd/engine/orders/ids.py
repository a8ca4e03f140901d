"""Our id of an order: `<group>-<epoch>-<journal sequence>`, made by the omsd of that epoch.

Pure. The id comes back from the venue and from other processes, so it is read with bounds: what is longer or
other than an id of ours names no order.
"""

from __future__ import annotations

from typing import NamedTuple

from hftd.wire.codec import NAME_MAX

_DIGITS_MAX = 19
"""Of a number in 63 bits. int() itself refuses 4,300 digits and is slow long before."""


class OrderId(NamedTuple):
    group: str
    epoch: int
    sequence: int


def parse(order_id: str) -> OrderId | None:
    """The parts of an id of ours; None when it is none."""
    if len(order_id) > NAME_MAX:
        return None
    group, *numbers = order_id.rsplit("-", 2)
    if len(numbers) != 2 or not group or not all(map(_is_number, numbers)):
        return None
    return OrderId(group, int(numbers[0]), int(numbers[1]))


def _is_number(text: str) -> bool:
    return len(text) <= _DIGITS_MAX and text.isascii() and text.isdecimal()


def text(group: str, epoch: int, sequence: int) -> str:
    return f"{group}-{epoch}-{sequence}"


def epoch_of(order_id: str) -> int:
    """0 when it is not an id of ours."""
    found = parse(order_id)
    return found.epoch if found else 0


def group_of(order_id: str) -> str:
    """Empty when it is not an id of ours."""
    found = parse(order_id)
    return found.group if found else ""
