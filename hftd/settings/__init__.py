"""Settings of the daemons: one frozen dataclass per daemon, every field with its unit and the reason for its
default, and the daemon's kind after it.

A field that names a service says which daemon that service must run: `field(default="bookd",
metadata={"service": "bookd"})`; with "fence": True too, the token of that service's group is written beside
the lease page. A running daemon takes every changed field but those with {"restart": True}, whose docstrings
say why not, and those that name a service, which are fixed by services.yml. The kinds are found by the entry
point group `hftctl.daemons`. What checks a services.yml against them is controlplane/specs/read.py; what
reads them in a daemon's own process is hftd/cli/main.py; how they change there: hftd/runtime/in_force.py.
"""

from hftd.settings.books import AUDITD as AUDITD
from hftd.settings.books import POSITIOND as POSITIOND
from hftd.settings.books import AuditSettings, PositionSettings
from hftd.settings.market import BOOKD as BOOKD
from hftd.settings.market import MARKETD as MARKETD
from hftd.settings.market import SIMD as SIMD
from hftd.settings.market import BookSettings, InstrumentTerms, MarketSettings, SimSettings
from hftd.settings.orders import EXECD as EXECD
from hftd.settings.orders import OMSD as OMSD
from hftd.settings.orders import ExecutionSettings, OrdersSettings
from hftd.settings.strategy import RISKD as RISKD
from hftd.settings.strategy import STRATEGYD as STRATEGYD
from hftd.settings.strategy import RiskSettings, StrategySettings

__all__ = [
    "AuditSettings",
    "BookSettings",
    "ExecutionSettings",
    "InstrumentTerms",
    "MarketSettings",
    "OrdersSettings",
    "PositionSettings",
    "RiskSettings",
    "SimSettings",
    "StrategySettings",
]
