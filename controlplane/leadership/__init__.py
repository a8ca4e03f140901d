"""Who leads a group: how a lease divides its time, what a keeper should do next, and the transactions that do
it.

budget.py and decide.py are pure: view (group_view.py) and time in, decision out. group_records.py reads what
is decided on, transactions.py writes what was decided, each with all its compares. The doing is in
agents/keeper. Rules R1 to R20: docs/protocol.md.
"""

__all__ = ["budget", "decide", "group_records", "group_view", "transactions"]
