"""What is known of the site, and what is made of it for people.

follower.py (keeps the newest view, and tells what changed) · view.py (what a view holds) · status.py and
document.py (the status document) · look.py (what is asked of it) · event_stream.py (the hosts' events as one
line). nouns.py, the caches behind a view, is this
room's own but for `Changes`; so is reasons.py, why a site is not healthy.
"""

__all__ = [
    "document",
    "event_stream",
    "follower",
    "histogram",
    "look",
    "nouns",
    "status",
    "view",
]
