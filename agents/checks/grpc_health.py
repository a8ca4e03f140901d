"""grpc.health.v1.Health/Check, by hand: the two messages have one field each.

grpcio is imported at the first such check: an agent without one does not pay for it.
"""

from __future__ import annotations

from typing import Any

from agents.checks.target import Result, Target
from controlplane.model.checks import GrpcCheck

METHOD = "/grpc.health.v1.Health/Check"
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
ANSWER_BYTES_MAX = 4096
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # each look connects anew
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
)


def request(service: str) -> bytes:
    """HealthCheckRequest {string service = 1}."""
    name = service.encode()
    length, size = bytearray(), len(name)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"\x0a" + bytes(length) + name if name else b""


def status_of(response: bytes) -> int | None:
    """Of a HealthCheckResponse {enum status = 1}; None: it is none. Absent means 0."""
    if not response:
        return 0
    return response[1] if len(response) == 2 and response[0] == 0x08 and response[1] < 0x80 else None


async def probe(check: GrpcCheck, target: Target) -> Result:
    import grpc
    import grpc.aio

    address = target.filled(check.address)
    channel = grpc.aio.insecure_channel(address, options=OPTIONS)
    try:
        call = channel.unary_unary(METHOD)
        answer: Any = await call(request(target.filled(check.grpc_service)), timeout=check.timeout_s)
    except grpc.aio.AioRpcError as exc:
        details = " ".join(str(exc.details() or "").split())[:300]
        return Result("critical", f"{address}: {exc.code().name}: {details}")
    finally:
        await channel.close()
    number = status_of(bytes(answer))
    if number is None or number >= len(STATUSES):
        return Result("critical", f"{address}: the answer is no HealthCheckResponse: {bytes(answer)[:40]!r}")
    return Result("passing" if number == 1 else "critical", f"{address}: {STATUSES[number]}")
