"""Orders decided: what an order may do, what risk lets pass, who leads and who is fenced, what a standby has.
Pure.
"""

__all__ = [
    "answers",
    "approvals",
    "awaited",
    "claims",
    "clients",
    "confirmed",
    "gateway",
    "ids",
    "oms",
    "order",
    "replica",
    "report_check",
    "risk",
    "takeover",
    "term",
]
