"""The keeper of a host: what must not stop when the agent does.

It sees an instance die (liveness.py), keeps registrations (controlplane/registry) and leader records
(member.py) renewed, writes the lease pages (words.py), asks its peers who is passing (peers.py) and hands the
lead over (member.py), on what its watches of the store show (shown.py). keeper.py joins these, without a
process around them; daemon.py is the process; protocol.py has the messages to and from the agent. What to do
is decided in controlplane/leadership/decide.py and written to the store by leadership/transactions.py.
"""

__all__ = [
    "protocol",
]
