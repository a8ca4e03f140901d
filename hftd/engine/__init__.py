"""What the daemons decide, without a clock, a socket or a file: time comes in as an argument, actions go out.

market/ (books, bars, credit) · orders/ (order, risk, takeover, gateway, replica) · matching.py and
accounts.py (the venue) · position.py · audit_chain.py and audit_statement.py (what is signed of it), both in
canonical_json.py · reasons.py (codes and their texts) · fixed.py (exact decimals).
"""

__all__ = ["accounts", "audit_chain", "audit_statement", "fixed", "matching", "position", "reasons"]
