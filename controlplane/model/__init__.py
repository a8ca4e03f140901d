"""The nouns of a site, frozen: what is wanted, who a process is, what the store holds, what was seen.

specs.py · process.py · records.py · observed.py. No I/O and no clock.
"""

from controlplane.model import records as records
from controlplane.model.observed import Alarm as Alarm
from controlplane.model.observed import EndedCounters as EndedCounters
from controlplane.model.observed import HostRecord as HostRecord
from controlplane.model.observed import InstanceStatus as InstanceStatus
from controlplane.model.process import Phase as Phase
from controlplane.model.process import Process as Process
from controlplane.model.process import Token as Token
from controlplane.model.records import Registration as Registration
from controlplane.model.records import decode as decode
from controlplane.model.records import decode_spec as decode_spec
from controlplane.model.records import encode as encode
from controlplane.model.specs import REAL_TIME as REAL_TIME
from controlplane.model.specs import DaemonKind as DaemonKind
from controlplane.model.specs import Mode as Mode
from controlplane.model.specs import ServiceSpec as ServiceSpec
from controlplane.model.specs import Slot as Slot
from controlplane.model.specs import Tombstone as Tombstone
