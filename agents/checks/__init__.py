"""Carries out the health checks of this host's instances, and knows how each stands.

board.py (what is checked, how it stands, what is said of it) · prober.py (when and how many at once) · one
file a kind. What results mean is decided in controlplane/health; what a check may be: model/checks.py.
"""

from agents.checks.board import Board, Row, Subject
from agents.checks.target import Target

__all__ = ["Board", "Row", "Subject", "Target"]
