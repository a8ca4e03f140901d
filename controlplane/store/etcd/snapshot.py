"""etcd's own snapshot: a stream of parts from one member, the last 32 bytes a SHA-256 of all before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from controlplane.errors import Unavailable
from controlplane.store.etcd import errors
from controlplane.store.etcd.calls import SNAPSHOT, Calls, connected, serialize, why_not
from controlplane.store.etcd.rpc import etcd_pb2 as rpc

CONNECT_S = 2.0
PART_S = 10.0
"""Between two parts: etcd reads them from its own disk, 32 KiB each."""


async def parts(calls: Calls) -> AsyncIterator[bytes]:
    """Raises Unavailable, Denied and the like, as the calls do."""
    endpoint = calls.preferred()
    what = f"store etcd {endpoint.address}: Snapshot"
    channel = endpoint.open_channel()
    try:
        if not await connected(channel, CONNECT_S):
            raise Unavailable(f"{what}: no connection: {await why_not(channel)}")
        asked = channel.unary_stream(
            SNAPSHOT, request_serializer=serialize, response_deserializer=rpc.SnapshotResponse.FromString
        )
        answers = asked(rpc.SnapshotRequest(), metadata=calls.metadata()).__aiter__()
        while True:
            try:
                async with asyncio.timeout(PART_S):
                    answer = await anext(answers)
            except StopAsyncIteration:
                return
            yield answer.blob
    except TimeoutError as exc:
        raise Unavailable(f"{what}: broke off: nothing came for {PART_S:g} s") from exc
    except grpc.aio.AioRpcError as exc:
        code, text = exc.code().name, exc.details() or ""
        raise errors.translate(errors.classify(code, text), what, code, text, writes=False) from exc
    finally:
        await channel.close()
