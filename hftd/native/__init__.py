"""The few lines of C that are worth having, each with a Python twin that decides in doubt.

Others use market.py.
"""

__all__ = [
    "market",
]
