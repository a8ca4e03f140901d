"""/live, /ready and /health of the controller: its loop, its view, the site."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane.api import http
from controlplane.http.peer import EXTENSION, Peer
from controlplane.site import document
from controlplane.site.reasons import ALARM, Reason

GROUP = Reason("group", "omsd", "omsd: no instance leads")
SECRET = Reason(ALARM, "positions.hole of positiond-alpha-1", "positiond-alpha-1: 5 lots are missing")


class Controller:
    elected = True

    def __init__(self, reasons: list[Reason] | None) -> None:
        self._reasons = reasons

    def status(self) -> document.StatusDocument | None:
        raise AssertionError("no verdict takes a whole document")

    def reasons(self) -> list[Reason] | None:
        return self._reasons

    def store_reachable(self) -> bool:
        return True


def get(controller: Controller, path: str, *, owner: bool = False) -> tuple[int, str]:
    sent: list[dict[str, Any]] = []
    extensions = {EXTENSION: Peer(1, 0, 0)} if owner else {}
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [], "extensions": extensions,
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(http.application(controller)(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent[1:]).decode()


@pytest.mark.parametrize(
    ("reasons", "ready", "health"),
    [([], 200, 200), ([GROUP], 200, 503), (None, 503, 503)],
    ids=["healthy", "not healthy", "nothing seen"],
)
def test_live_while_it_turns_ready_with_a_view_and_healthy_as_the_site(
    reasons: list[Reason] | None, ready: int, health: int
) -> None:
    controller = Controller(reasons)
    assert get(controller, "/live") == (200, "OK")
    assert get(controller, "/ready")[0] == ready
    assert get(controller, "/health")[0] == health


def test_who_asks_why_is_told_and_only_the_owner_an_alarm_s_text() -> None:
    controller = Controller([GROUP, SECRET])
    first, *why = get(controller, "/health")[1].splitlines()
    assert first == "UNHEALTHY"
    assert why == [GROUP.text, "alarm positions.hole of positiond-alpha-1"]
    assert get(controller, "/health", owner=True)[1].splitlines() == ["UNHEALTHY", GROUP.text, SECRET.text]
