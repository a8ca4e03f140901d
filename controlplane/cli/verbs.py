"""The verbs of hftctl: a name, a place and a line of help each. A verb's file is imported only when the verb
is typed; the list of verbs (`--help`, completion) is made without importing any of them.

A new verb is a line in VERBS and a function in its noun's file. Who runs it: dispatch.py.
"""

from __future__ import annotations


class Verb:
    """`place`: `FILE:NAME`, a file of this folder and the function or Noun in it. `help`: how its own help
    begins; test_verb_imports.py compares them.
    """

    __slots__ = ("help", "place")

    def __init__(self, place: str, help: str) -> None:
        self.place = place
        self.help = help


VERBS: dict[str, Verb] = {
    "up": Verb("up:up", "Start the floor, or change what a running one shall be."),
    "down": Verb("down:down", "Stop everything of a floor: no process, socket or shared memory is left."),
    "apply": Verb("specs:apply", "Make the floor's services what a file says; the change is shown first."),
    "diff": Verb("specs:diff", "Say what `apply` of a services file would change."),
    "status": Verb("status:status", "Hosts, services, leaders, flow and alarms of the site."),
    "doctor": Verb(
        "doctor:doctor", "Examine store, hosts, machine and the floor's folders, and say what to do."
    ),
    "services": Verb("services:services", "The services of the site: wanted, running, led by."),
    "endpoints": Verb("services:endpoints", "Where the instances of a service listen."),
    "health": Verb("services:health", "Health of instances, check by check; exit 1 when one is not passing."),
    "register": Verb(
        "registration:register",
        "Register a service that is not the floor's; it stands until it is deregistered.",
    ),
    "deregister": Verb("registration:deregister", "Take out an instance that was registered by hand."),
    "maint": Verb(
        "registration:maint", "Take instances out of service, or back in; it outlives their processes."
    ),
    "host": Verb("host:host", "Hosts of the site."),
    "logs": Verb("logs:logs", "The log of one instance."),
    "events": Verb("events:events", "Events of the site, oldest first."),
    "orders": Verb("trading:orders", "Orders, working ones first, as the leading omsd has them."),
    "positions": Verb(
        "trading:positions", "Positions and cash by instrument, ours beside the venue's own account."
    ),
    "history": Verb(
        "leadership:history", "Every change of leader of a service, with time, cause, actor and reason."
    ),
    "failover": Verb("leadership:failover", "Kill the leader of a service and let a standby lead."),
    "config": Verb(
        "config:config",
        "Configuration: services' settings and plain keys, their revisions, changed with the market open.",
    ),
    "breaker": Verb("breaker:breakers", "Circuit breakers of the site."),
    "op": Verb("op:op", "Operations: what was changed, by whom, why, and how it went."),
    "backup": Verb("backup:backup", "Write everything that the store holds of the site to a file."),
    "restore": Verb("backup:restore", "Make the site be what a backup says, in a store of either kind."),
    "fence": Verb("fence:fences", "The fences that receivers keep of a group."),
}
