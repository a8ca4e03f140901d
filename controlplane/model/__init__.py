"""The nouns of a site, frozen: what is wanted, who a process is, what the store holds, what was seen. No I/O,
no clock.

specs.py (services, slots, kinds of daemons) · checks.py (health checks) · process.py (process, token,
phase) · records.py (what is stored, and its JSON) · config.py (revisions, rollouts, plain keys) · observed.py
(what an agent reports) · bounds.py (what a field may hold). The names below are those that every room speaks
of.
"""

from controlplane.model.process import Phase, Process, Token, host_of, in_range
from controlplane.model.records import decode, encode
from controlplane.model.specs import Mode, ServiceSpec, Slot

__all__ = [
    "Mode",
    "Phase",
    "Process",
    "ServiceSpec",
    "Slot",
    "Token",
    "bounds",
    "checks",
    "config",
    "decode",
    "encode",
    "host_of",
    "in_range",
    "observed",
    "records",
    "specs",
]
