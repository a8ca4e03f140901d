"""What is asked of a status document, apart from the structs it is made of: hftctl asks it of an answer that
it has read without msgspec (cli/by_name.py). Pure.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from controlplane.errors import InvalidInput

if TYPE_CHECKING:
    from controlplane.site.document import AlarmState, Flow, InstanceRow, ServiceRow, StatusDocument


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


SITE = "site"
"""Subject of an alarm about the whole of it."""
KILL_SWITCH = "kill_switch"
"""Id of the site's alarm while somebody has set it (config_status.py), and of those of its daemons."""
KILL_SWITCH_UNKNOWN = "kill_switch.unknown"
"""Id of the alarm of an agent that takes it for set (agents/wanted_config.py)."""
CONFIG_OLD_MS = 3000
"""As status.HOST_SILENT_MS."""


def config_words(instance: InstanceRow) -> str:
    """What its settings have to do with it: the revision in force beside the wanted one, where they differ;
    how old that is, where its agent is silent; why they were refused. Empty: all is as it should be.
    """
    parts = []
    if instance.pid is not None and instance.config_revision != instance.config_wanted:
        parts.append(f"config {instance.config_revision} -> {instance.config_wanted}")
    if instance.config_seen_ms is not None and instance.config_seen_ms >= CONFIG_OLD_MS:
        age_s = instance.config_seen_ms / 1000
        parts.append(f"config {instance.config_revision} as of {age_s:.0f} s ago")
    if instance.config_refused:
        parts.append(f"config refused: {instance.config_refused}")
    return ", ".join(parts)


def of_kill_switch(alarm: AlarmState) -> bool:
    """It says why the site's daemons take no new orders; what they say themselves is not meant."""
    return (alarm.id, alarm.subject) == (KILL_SWITCH, SITE) or alarm.id == KILL_SWITCH_UNKNOWN


def per_s(flow: Flow) -> str:
    """Market data messages a second; "?" while that is not known."""
    return "?" if flow.messages_per_s is None else f"{flow.messages_per_s:,.0f}"


def iso(wall_ns: int) -> str:
    """UNIX ns as the document says times: ISO 8601 in UTC, to the millisecond, never later than it was."""
    seconds, ms = divmod(wall_ns // 1_000_000, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03d}Z"
