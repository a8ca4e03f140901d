"""omsd: owns the orders. daemon.py wires it, receivers.py is whom it tells, replication.py its standbys."""

from hftd.daemons.omsd.daemon import build as build
