"""Market data and venues: a venue's lines become messages, live or from a recording.

Others use base.py (what an adapter is), binance.py (frames to messages), replay.py (recorded capture),
synthetic.py (a seeded market), reference.py (what an instrument is), intake.py and bad_lines.py (what marketd
does with a line),
data_verify.py (whether a capture is whole), and sim.py with sim_faults.py (the simulated venue itself).
"""

__all__ = [
    "bad_lines",
    "base",
    "binance",
    "data_verify",
    "intake",
    "reference",
    "replay",
    "sim",
    "sim_faults",
    "synthetic",
]
