"""What is kept for the record, on disk: the audit log and its proof, and the positions. Who writes them:
daemons/auditd.py and positiond.py.
"""
