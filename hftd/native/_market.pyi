from typing import TypeVar

_Message = TypeVar("_Message")

def pack_line(
    raw: bytes, symbol: str, instrument: int, receive_ns: int, origin_ns: int, /
) -> tuple[int, int, bytes] | None: ...
def normalise(
    raw: bytes, symbol: str, instrument: int, receive_ns: int, origin_ns: int, message_type: type[_Message], /
) -> _Message | None: ...
def unpack(data: bytes, message_type: type[_Message], /) -> list[_Message] | None: ...
