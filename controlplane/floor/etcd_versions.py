"""Which versions of etcd may keep a site's data. Pure: the text of `etcd --version` in, a judgement out.

The bounds are upstream's: 3.5.0 to 3.5.5 and everything before 3.4.22 can lose or corrupt acknowledged writes
when killed (etcd #13766, #14370), and this project kills processes on purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GOOD_FROM: dict[tuple[int, int], int] = {(3, 4): 22, (3, 5): 6}
"""First good patch of a minor version; minors after the last have none that is bad."""

NEEDED = "3.4.22 or newer in 3.4, 3.5.6 or newer after it"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def series(self) -> str:
        """The part that decides about the data folder's format: "3.5"."""
        return f"{self.major}.{self.minor}"


def parse(text: str) -> Version | None:
    """The version in "3.4.23" or in what `etcd --version` prints; None when there is none."""
    found = re.search(r"\b(\d+)\.(\d+)\.(\d+)", text)
    return Version(*(int(part) for part in found.groups())) if found else None


def fault(version: Version) -> str:
    """Why this version must not keep data; empty when it may."""
    series = (version.major, version.minor)
    if series < min(GOOD_FROM) or version.major != 3:
        return f"etcd {version} is not known to work here (need {NEEDED})"
    if version.patch < GOOD_FROM.get(series, 0):
        return f"etcd {version} can lose acknowledged writes when it is killed (need {NEEDED})"
    return ""
