"""What stands between a call and a neighbour that fails, is slow, or is asked too much.

backoff.py has the one policy of retries and restarts. breaker.py is a circuit breaker as a pure state
machine, with windows.py (what it counts) and outcome.py (which results and exceptions count); guard.py is its
face for `with`, `async with`, decorators and threads. bulkhead.py bounds what runs at once and what waits,
with turnstile.py for tasks and threads. retry_budget.py says how much is tried again, ejection.py how many
instances may be left out at the same time. All pure (time and randomness are arguments) but the two faces.
"""

__all__ = [
    "backoff",
    "breaker",
    "bulkhead",
    "ejection",
    "guard",
    "outcome",
    "retry_budget",
    "turnstile",
    "windows",
]
