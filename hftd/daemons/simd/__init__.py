"""simd: a simulated exchange. daemon.py wires it; session.py is its order desk, snapshots.py answers marketd,
tape.py paces the market, journal.py is what it keeps. Others use `build`.
"""

from hftd.daemons.simd.daemon import build

__all__ = [
    "build",
]
