"""`hftctl breaker list` and `hftctl breaker open|close|auto NAME --reason`: the circuit breakers of the site,
and an operator's word on those of one name, on every host.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Optional
from urllib.parse import quote

from controlplane.cli import agent_client, render
from controlplane.cli.declare import Argument, Noun, Option
from controlplane.cli.options import ASK_TIMEOUT_S, AskTimeoutOption, Output, OutputOption, SiteDirOption
from controlplane.errors import FloorUnreachable, HftctlError, InvalidInput
from controlplane.http import unix

COLUMNS = ("name", "host", "instance", "state", "calls", "failures", "slow", "refused", "until", "reason")
OBEYED_S = 5.0
"""For agents to hear of it, and daemons to say that they obey; it takes a fraction of a second."""
WANTED = {"open": "forced_open", "close": "metrics_only"}

Name = Annotated[str, Argument(help="Name of a breaker, as `breaker list` shows it.")]
Reason = Annotated[Optional[str], Option("--reason", help="Why; shown wherever it refuses a call. Required.")]
For = Annotated[
    Optional[str],
    Option("--for", help="How long, as 90s, 15m, 2h or 1d; without it, until `breaker auto`."),
]
Timeout = Annotated[float, Option("--timeout", min=0.1, help="Seconds until the outcome counts as unknown.")]


def show(
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
    timeout: AskTimeoutOption = ASK_TIMEOUT_S,
) -> int:
    """The breakers of every instance; exit 1 when one refuses calls."""
    rows = agent_client.Floor(site_dir, timeout).status().breakers
    render.show(rows, output, COLUMNS)
    return 1 if any(row.state in ("open", "forced_open") for row in rows) else 0


def force_open(
    name: Name,
    reason: Reason = None,
    duration: For = None,
    timeout: Timeout = 10.0,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Let no call through, on any host. Cancels of orders pass every breaker."""
    return _say(request("open", name, reason, duration, timeout, site_dir), output)


def force_closed(
    name: Name,
    reason: Reason = None,
    duration: For = None,
    timeout: Timeout = 10.0,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Let every call through, whatever becomes of it; calls are still counted."""
    return _say(request("close", name, reason, duration, timeout, site_dir), output)


def auto(
    name: Name,
    reason: Reason = None,
    timeout: Timeout = 10.0,
    output: OutputOption = Output.table,
    site_dir: SiteDirOption = None,
) -> int:
    """Let it decide by itself again: closed, with nothing counted against it."""
    return _say(request("auto", name, reason, None, timeout, site_dir), output)


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str | None, option: str = "--for") -> float | None:
    """Raises InvalidInput: not a duration."""
    if text is None:
        return None
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS_S else (text, "s")
    try:
        found = float(number) * _UNITS_S[unit]
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise InvalidInput(f'{option} "{text}": not a duration; wanted one as 90s, 15m, 2h or 1d')
    return found


def request(
    wanted: str,
    name: str,
    reason: str | None,
    duration: str | None,
    timeout_s: float,
    site_dir: Path | None,
) -> dict[str, Any]:
    """The result of one override, with who does not obey it yet.

    Raises:
        InvalidInput: no reason, no duration, or no such breaker. FloorUnreachable: no agent took the
        request, or the store cannot be written.
    """
    if not reason or not reason.strip():
        raise InvalidInput(f'breaker {wanted} "{name}": --reason is missing (it is shown with the breaker)')
    body: dict[str, Any] = {"wanted": wanted, "reason": reason, "for_s": seconds(duration)}
    floor = agent_client.Floor(site_dir, ASK_TIMEOUT_S)
    host, target = floor.living_host(), f"/v1/site/breakers/{quote(name, safe='')}"
    try:
        answer = unix.request(
            floor.socket(host), "POST", target, json.dumps(body).encode(), timeout_s=timeout_s
        )
    except FloorUnreachable as exc:
        why = f"the agent of {host} did not answer: {exc}"
        return {"operation": None, "name": name, "wanted": wanted, "outcome": "unknown", "reason": why}
    if answer.status >= 400:
        said = agent_client.reason_of(answer)
        if answer.status == 404:
            raise InvalidInput(said)
        if answer.status == 503:
            raise FloorUnreachable(f"breaker {wanted} {name}: {said}")
        raise HftctlError(f"breaker {wanted} {name}: {said}")
    found: dict[str, Any] = json.loads(answer.body)
    found["not_yet"] = _not_yet(floor, name, wanted)
    return found


def _not_yet(floor: agent_client.Floor, name: str, wanted: str) -> list[str]:
    """The instances whose breaker does not obey, when the time is over."""
    end_s = time.monotonic() + OBEYED_S
    while True:
        rows = [row for row in floor.status().breakers if row.name == name]
        late = [row.instance for row in rows if not _obeys(row, wanted)]
        if not late or time.monotonic() >= end_s:
            return late
        time.sleep(0.05)


def _obeys(row: Any, wanted: str) -> bool:
    return bool(row.state == WANTED[wanted] if wanted in WANTED else not row.forced)


def _say(result: dict[str, Any], output: Output) -> int:
    if output is Output.table:
        operation = f" (operation {result['operation']})" if result.get("operation") else ""
        duration = f" for {result['for_s']:g} s" if result.get("for_s") else ""
        done = f"{result['name']}: breaker {result['wanted']}{duration} {result['outcome']}"
        render.say(f"{done}: {result['reason']}{operation}")
        if result.get("not_yet"):
            late = ", ".join(result["not_yet"])
            render.say(f"  {late}: not heard to obey within {OBEYED_S:g} s; see `hftctl breaker list`")
    else:
        render.show(result, output)
    if result.get("not_yet"):
        return 4
    return agent_client.EXIT_CODES.get(result["outcome"], 1)


breakers = Noun(
    "Circuit breakers of the site.",
    {"list": show, "open": force_open, "close": force_closed, "auto": auto},
)
