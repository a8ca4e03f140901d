"""What every daemon stands on: its floor (who am I, what may I use, what do I report) and THE poll loop.

floor.py (environment, counters, alarms) · control.py (the link to the agent) · lease.py (the two words) ·
loop.py (the loop) · log.py (lines that never wait) · health.py (what it says of itself) · floors.py (fencing
floors on disk) · journal.py (records that survive kill -9). A daemon is wiring: hftd/daemons.
"""

from hftd.runtime.context import Floor as Floor
from hftd.runtime.loop import Loop as Loop
from hftd.runtime.loop import waits as waits
