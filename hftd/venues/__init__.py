"""Market data and venues: base.py (what an adapter is), binance.py (frames to messages), replay.py (recorded
capture), synthetic.py (a seeded market), intake.py (what marketd does with a line). sim.py and its neighbours
are the simulated venue itself.
"""
