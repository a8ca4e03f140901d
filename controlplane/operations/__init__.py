"""Changes that an operator or the system sets out to make, one a file: checked, written, waited for,
recorded.

failover.py moves the lead of a group, fence_reset.py sets its receivers' fences to what the store holds,
registration.py registers what is not the floor's and takes instances out of service, breaker_override.py
forces circuit breakers or lets them be. Their record is controlplane/operation_log.py.
"""

__all__ = ["breaker_override", "failover", "fence_reset", "registration"]
