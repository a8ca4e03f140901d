"""riskd: without its signature no order leaves. daemon.py wires it; strategies.py and order_manager.py are
its two links. Others use `build`, and `limits` to judge as a floor with these settings would.
"""

from hftd.daemons.riskd.daemon import build, limits

__all__ = [
    "build",
    "limits",
]
