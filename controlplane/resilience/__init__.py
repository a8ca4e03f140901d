"""How to go on after a failure: when to try again, and how often. Pure: time and randomness are arguments.

backoff.py has the one policy of retries and restarts. Breakers, bulkheads and retry budgets join it here.
"""

__all__ = ["backoff"]
