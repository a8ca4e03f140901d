"""omsd: owns the orders. daemon.py wires it: desk.py takes orders in, reports.py what comes back, lead.py
leads, ledger.py keeps the journal, receivers.py tells the others, replication.py the standbys. Others use
`build`.
"""

from hftd.daemons.omsd.daemon import build

__all__ = [
    "build",
]
