"""Responses as agent and controller give them, and the one shape of errors: {"error": why}, with a code that
says whose turn it is (400 the caller's, 404 nothing of that name, 409 refused, 503 try again).

`application` turns routes into an ASGI application: handlers raise, the error's kind chooses the code. What
is not in the error tree goes on to the server, which makes it a 500 and an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.errors import HftctlError, InvalidInput, Retryable
from controlplane.host import log_line
from controlplane.http import peer

NUMBER_DIGITS_MAX = 19
"""Nanoseconds of the wall clock; more is not a number that we gave out."""


class NotFound(HTTPException):
    def __init__(self, why: str) -> None:
        super().__init__(404, why)


def json(body: Any, http_status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), http_status, media_type="application/json")


def failing(why: str, http_status: int, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        msgspec.json.encode({"error": why}), http_status, dict(headers or {}), media_type="application/json"
    )


def verdict(good: bool, reasons: Sequence[str] = ()) -> Response:
    """What checks and load balancers ask for; why not, for people, a line each after the first."""
    if good:
        return PlainTextResponse("OK")
    return PlainTextResponse("\n".join(["UNHEALTHY", *map(log_line.printable, reasons)]), 503)


def page(body: bytes, content_type: str) -> Response:
    """Bytes whose content type is complete."""
    return Response(body, headers={"Content-Type": content_type})


def number(request: Request, name: str, default: int) -> int:
    """A whole number of the query.

    Raises:
        InvalidInput: it is something else.
    """
    found = request.query_params.get(name, "")
    if not found:
        return default
    if not (found.isascii() and found.isdecimal() and len(found) <= NUMBER_DIGITS_MAX):
        raise InvalidInput(f"{name}={found!r}: must be a whole number of at most {NUMBER_DIGITS_MAX} digits")
    return int(found)


def of(exc: HTTPException | HftctlError) -> Response:
    match exc:
        case HTTPException():
            return failing(exc.detail, exc.status_code, exc.headers)
        case InvalidInput():
            return failing(str(exc), 400)
        case Retryable():
            return failing(str(exc), 503)
    return failing(str(exc), 409)


def application(routes: Sequence[BaseRoute]) -> ASGIApp:
    router = Router(routes, redirect_slashes=False)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app  # the router raises for an unknown path then, instead of answering in plain text
        try:
            await router(scope, receive, send)
        except (HTTPException, HftctlError) as exc:
            await of(exc)(scope, receive, send)

    return app


def by_door(to_everybody: Sequence[BaseRoute], to_the_owner: Sequence[Route]) -> ASGIApp:
    """`to_everybody` on every socket; `to_the_owner` on unix sockets alone, where the kernel says who asks.
    Over TCP the latter are 403, saying where to go.
    """

    async def elsewhere(request: Request) -> Response:
        return failing(
            f"{request.url.path}: answered over the unix socket alone, to the floor's own user", 403
        )

    closed = [Route(route.path, elsewhere, methods=route.methods) for route in to_the_owner]
    whole, outside = application([*to_everybody, *to_the_owner]), application([*to_everybody, *closed])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (outside if peer.of(scope) is None else whole)(scope, receive, send)

    return app
