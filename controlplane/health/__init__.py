"""Decides what results of health checks mean: the state of a check, the health of an instance, when to look
again. Pure: time and randomness come in; agents/checks carries the checks out.

standing.py (one check's state) · fold.py (an instance's health) · schedule.py (when).
"""

from controlplane.health.fold import Finding, fold, of_service, without_outputs
from controlplane.health.schedule import first_s, next_s
from controlplane.health.standing import ORDER, Standing, worst

__all__ = [
    "ORDER",
    "Finding",
    "Standing",
    "first_s",
    "fold",
    "next_s",
    "of_service",
    "without_outputs",
    "worst",
]
