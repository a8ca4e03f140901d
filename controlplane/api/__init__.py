"""The controller's HTTP: health, metrics and the status of the site; later the admin API and its pages.

http.py has the routes; controlplane/http serves them.
"""

__all__ = ["http"]
