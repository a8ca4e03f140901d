"""What every daemon stands on: its context (who am I, what may I use, what do I report) and THE poll loop.

context.py (environment, counters, alarms) · loop.py (the loop) · agent_link.py (the link to the agent) ·
leadership.py (the lease page read, the heartbeat page written) · log.py (lines that never wait) · health.py
(what a daemon says of itself) · heads.py (envelopes). A daemon is wiring: hftd/daemons.
"""

from hftd.runtime.context import Context as Context
from hftd.runtime.loop import Loop as Loop
from hftd.runtime.loop import waits as waits
