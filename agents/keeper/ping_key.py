"""The key of the pings, from the site's secret on disk. Blocking: read in a thread."""

from __future__ import annotations

from pathlib import Path

from controlplane.errors import InvalidInput
from controlplane.host import secret

PURPOSE = "pings"


class PingKey:
    def __init__(self, site_dir: Path) -> None:
        self._site_dir = site_dir
        self.key: bytes | None = None
        """None: there has been no good one yet."""
        self.trouble = ""
        """What is wrong with the file, and what that means."""

    def __repr__(self) -> str:
        return f"<PingKey {'in force' if self.key else 'none'} {self.trouble}>"

    def read(self) -> bool:
        """Look at the file again; True when key or trouble is another. A good key stays in force over a file
        that is damaged or gone, which never makes a second secret while this keeper runs.
        """
        before = (self.key, self.trouble)
        try:
            found = secret.read_or_make(self._site_dir) if self.key is None else secret.read(self._site_dir)
        except (InvalidInput, OSError) as exc:
            means = (
                "the key that was read before stays in force"
                if self.key
                else "peers are not pinged: a hand-over names no successor, and the standbys race"
            )
            self.trouble = f"{exc}; {means}"
        else:
            self.key, self.trouble = secret.derived(found, PURPOSE), ""
        return (self.key, self.trouble) != before
