"""simd: a simulated exchange. daemon.py wires it; session.py is its order desk, tape.py the market,
journal.py what it keeps.
"""

from hftd.daemons.simd.daemon import build as build
