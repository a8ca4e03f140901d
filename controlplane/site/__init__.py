"""What is known of the site, and what is made of it for people.

follower.py (keeps the newest view, and tells what changed) · anti_entropy.py (compares it with the store) ·
view.py (what a view holds) · status.py and document.py (the status document) · config_status.py (its words on
configuration) · config_document.py (configuration for its own verbs) · last_heard.py (of hosts that are
gone) · look.py (what is asked of the document) · reasons.py (why a site is not healthy) · store_troubles.py
(what is wrong with its store) · event_stream.py (the hosts' events as one line). nouns.py, the caches behind
a view, is this room's own but for `Changes`.
"""

__all__ = [
    "anti_entropy",
    "config_document",
    "config_status",
    "document",
    "event_stream",
    "follower",
    "histogram",
    "last_heard",
    "look",
    "nouns",
    "reasons",
    "status",
    "store_troubles",
    "view",
]
