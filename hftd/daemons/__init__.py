"""The trading daemons: one module each, or one folder where there is more than wiring.

`build(context, settings)` returns the loop that hftd/cli runs; others use nothing else. What the daemons
decide is in hftd/engine.
"""
