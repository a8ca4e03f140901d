"""What is asked of a status document, apart from the structs it is made of: hftctl asks it of an answer that
it has read without msgspec (cli/by_name.py). Pure.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from controlplane.errors import InvalidInput

if TYPE_CHECKING:
    from controlplane.site.document import Flow, InstanceRow, ServiceRow, StatusDocument


def service(status: StatusDocument, name: str) -> ServiceRow:
    """Raises InvalidInput that lists the services there are."""
    for each in status.services:
        if each.name == name:
            return each
    there_are = ", ".join(each.name for each in status.services) or "none"
    raise InvalidInput(f'service "{name}" is not in site {status.site} (there are {there_are})')


def well(instance: InstanceRow) -> bool:
    """Ready and passing: as desired."""
    return instance.ready and instance.health == "passing"


def per_s(flow: Flow) -> str:
    """Market data messages a second; "?" while that is not known."""
    return "?" if flow.messages_per_s is None else f"{flow.messages_per_s:,.0f}"


def iso(wall_ns: int) -> str:
    """UNIX ns as the document says times: ISO 8601 in UTC, to the millisecond, never later than it was."""
    seconds, ms = divmod(wall_ns // 1_000_000, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z"
