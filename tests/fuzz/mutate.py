"""Cases for decoders: plausible values made from a type, and what becomes of them when bytes or leaves
change.

Each run begins at a random number, which stands in the message of a failure (HFT_FUZZ_SEED runs it again).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import inspect

SECONDS = float(os.environ.get("HFT_FUZZ_S", "2"))
"""For one door."""
CASES_MIN = 300
"""However slow the machine is."""
CASE_S_MAX = 5.0
"""One case that takes longer is a fault: its loop serves others."""
TEXTS = (
    "alpha",
    "omsd-alpha-1",
    "ipc:///run/x",
    "http://127.0.0.1:1",
    "running",
    "passing",
    "active",
    "leader",
    "forced_open",
    "info",
    "",
)
NUMBERS = (
    0,
    1,
    -1,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    1e308,
    -0.0,
    float("inf"),
    float("nan"),
)
LEAVES: tuple[Any, ...] = (
    *NUMBERS,
    None,
    True,
    "",
    "x" * 9000,
    "\x1b[2J",
    "../../etc",
    [],
    {},
    [[[[]]]],
    b"\xff" * 40,
)


def cases(seeds: Sequence[bytes], codec: str) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) until the time is over; `codec`: msgpack, json or none (bytes only)."""
    began = int(os.environ.get("HFT_FUZZ_SEED", random.randrange(2**32)))
    end_s, number = time.monotonic() + SECONDS, began
    while number - began < CASES_MIN or time.monotonic() < end_s:
        rng = random.Random(number)
        seed = rng.choice(seeds)
        yield (
            number,
            shaped(seed, codec, rng) if codec != "none" and rng.random() < 0.5 else damaged(seed, rng),
        )
        number += 1


def damaged(seed: bytes, rng: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 16)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 3:
                data[at:at] = bytes([rng.choice(b'\x00\xff[{"}]\n\r\x90\xdf\xc1\xc4')]) * rng.choice(
                    (1, 3, 2000)
                )
            case 4:
                data[at:at] = data[: rng.randint(0, 64)]
            case 5:
                data[at:] = b""
            case _:
                data[at:at] = str(rng.choice(NUMBERS)).encode() * rng.choice((1, 300))
    return bytes(data)


def shaped(seed: bytes, codec: str, rng: random.Random) -> bytes:
    """Still of its encoding, with some leaves replaced."""
    coder: Any = msgspec.msgpack if codec == "msgpack" else msgspec.json
    try:
        value = coder.decode(seed)
        for _ in range(rng.randint(1, 3)):
            value = _changed(value, rng)
        encoded: bytes = coder.encode(value)
    except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeError, RecursionError):
        return damaged(seed, rng)
    return encoded


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        match rng.randrange(5):
            case 0:
                return value[:at]
            case 1:
                return [*value, rng.choice(LEAVES)]
            case _:
                return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: _changed(value[key], rng)}
    return rng.choice(LEAVES)


def examples(kind: Any) -> list[Any]:
    """A value of each alternative of the type that decodes as it."""
    found = inspect.type_info(kind)
    return [_example(each) for each in (found.types if isinstance(found, inspect.UnionType) else (found,))]


def _example(kind: inspect.Type, depth: int = 0) -> Any:
    match kind:
        case inspect.StructType(fields=fields) | inspect.DataclassType(fields=fields):
            return kind.cls(**{f.name: _example(f.type, depth + 1) for f in fields})
        case inspect.UnionType(types=types):
            return _example(next((t for t in types if not isinstance(t, inspect.NoneType)), types[0]), depth)
        case inspect.DictType():
            return {_example(kind.key_type, depth): _example(kind.value_type, depth)}
        case inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            return [_example(kind.item_type, depth)]
        case inspect.VarTupleType():
            return (_example(kind.item_type, depth),)
        case inspect.TupleType():
            return tuple(_example(each, depth) for each in kind.item_types)
        case inspect.EnumType():
            return next(iter(kind.cls))
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.IntType():
            return max(1, kind.ge or 0)
        case inspect.FloatType():
            return 1.5
        case inspect.BoolType():
            return True
        case inspect.BytesType():
            return b"bytes"
        case inspect.StrType():
            return next(text for text in TEXTS if _fits(text, kind))
        case inspect.NoneType():
            return None
    return "anything"


def _fits(text: str, kind: inspect.StrType) -> bool:
    import re

    return kind.pattern is None or re.search(kind.pattern, text) is not None


def attack(
    door: Callable[[bytes], object], seeds: Sequence[bytes], codec: str, refuses: tuple[type[Exception], ...]
) -> dict[str, int]:
    """Feed it; whatever is not an answer or a refusal of these kinds fails with the case. Returns how many of
    each there were.
    """
    counts = {"taken": 0, "refused": 0}
    for number, case in cases(seeds, codec):
        began_s = time.process_time()
        try:
            door(case)
            counts["taken"] += 1
        except refuses:
            counts["refused"] += 1
        except BaseException as exc:
            raise AssertionError(
                f"HFT_FUZZ_SEED={number}: {type(exc).__name__}: {exc}, for {case[:400]!r}"
            ) from exc
        took_s = time.process_time() - began_s
        assert took_s < CASE_S_MAX, f"HFT_FUZZ_SEED={number}: {took_s:.1f} s for {case[:400]!r}"
    return counts
