"""omsd's two rooms beside its wiring: receivers.py (who is told: riskd, positiond, auditd) and replication.py
(leader to standby).
"""
