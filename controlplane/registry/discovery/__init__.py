"""Discovery: who serves what, out of one watched view of the site, and which of them to call next.

cache.py (`Discovery`: answers, changes, waiting; `Balanced`: one way to choose) · serving.py (what an answer
is) · balancing.py (the ways to choose) · ejection.py (who is left out for failing) · opened.py (the door for
programs that have no follower: `discovering`, `blocking` without an event loop, `followed` over a store that
is open already). How to use it: docs/discovery.md.
"""

from controlplane.registry.discovery.balancing import (
    LeastLoaded,
    RoundRobin,
    SameHostFirst,
    Sticky,
    SymbolPartitions,
    Weighted,
)
from controlplane.registry.discovery.cache import KINDS, Balanced, Discovery, condition
from controlplane.registry.discovery.ejection import EjectionSettings
from controlplane.registry.discovery.opened import blocking, discovering, followed
from controlplane.registry.discovery.serving import Only, Serving

__all__ = [
    "KINDS",
    "Balanced",
    "Discovery",
    "EjectionSettings",
    "LeastLoaded",
    "Only",
    "RoundRobin",
    "SameHostFirst",
    "Serving",
    "Sticky",
    "SymbolPartitions",
    "Weighted",
    "blocking",
    "condition",
    "discovering",
    "followed",
]
