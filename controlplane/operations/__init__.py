"""Changes that an operator or the system sets out to make, one a file: checked, written, waited for,
recorded.

failover.py moves the lead of a group, fence_reset.py sets its receivers' fences to what the store holds,
registration.py registers what is not the floor's and takes instances out of service, breaker_override.py
forces circuit breakers or lets them be, config_change.py changes the configuration, config_rollout.py
carries out a rollout of it. log.py writes the record of each, archive.py moves the oldest from the store to
the disk, shown.py is what people are told of them.
"""

__all__ = [
    "archive",
    "breaker_override",
    "config_change",
    "config_rollout",
    "failover",
    "fence_reset",
    "log",
    "registration",
    "shown",
]
