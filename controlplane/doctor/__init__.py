"""Is everything under the floor as it should be? Asked by an operator before the day and when something is
odd.

finding.py (what is said of one thing) · versions.py (known bugs of the stores' releases) · store.py, site.py,
machine.py, folders.py, certificates.py (the examinations, each of which says what it could not look at) ·
examine.py (all of them). Reads, and writes nothing but the store's own test key.
"""

__all__ = ["examine", "finding"]
