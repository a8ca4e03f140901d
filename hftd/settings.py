"""Settings of the daemons: one frozen dataclass a daemon, every field with its unit and why this default, and the daemon's kind below it.

A field that names a service says which daemon that service must run: `field(default="bookd", metadata={"service": "bookd"})`; with "floor": True too, the
token of that service's group is written beside the lease word. The kinds are found by the entry point group `hftctl.daemons` (pyproject.toml).
What checks a services.yml against them is controlplane/specs.py; what reads them in a daemon's own process is hftd/cli.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.model import DaemonKind, Mode
