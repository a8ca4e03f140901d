"""When the elected controller takes a backup, where they lie, and how many are kept.

A backup is due when the newest in the folder is older than the interval, whoever took it; so a new controller
neither misses one nor takes one too many. Only files of a scheduled backup's own name are ever deleted.
"""

from __future__ import annotations

import calendar
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.backup import native
from controlplane.errors import InvalidSettings

FOLDER = "backups"
"""In the site folder."""
ENDING = "hftbackup"
EVERY, KEEP, DIR = "HFT_BACKUP_EVERY_S", "HFT_BACKUP_KEEP", "HFT_BACKUP_DIR"
EVERY_S_MIN = 1.0
KEEP_MAX = 10_000
RETRY_S_MAX = 60.0
"""After one that failed; less where the interval is less."""
NATIVE_KEPT_MAX = 3
"""Of the store's own snapshots, each as large as its database."""
_STAMP = r"\d{8}T\d{6}Z"


@dataclass(frozen=True, slots=True)
class Settings:
    folder: Path
    every_s: float = 3600.0
    """Between two backups; 0: none are taken."""
    keep: int = 24
    """The newest so many stay."""

    def __post_init__(self) -> None:
        if self.every_s and not EVERY_S_MIN <= self.every_s <= 366 * 86_400:
            raise InvalidSettings(
                f"backup interval {self.every_s:g} s ({EVERY}): wanted {EVERY_S_MIN:g} s to a year, or 0 for "
                "none"
            )
        if not 1 <= self.keep <= KEEP_MAX:
            raise InvalidSettings(f"backups to keep {self.keep} ({KEEP}): wanted 1 to {KEEP_MAX}")


def of_environment(environ: Mapping[str, str], site_dir: Path) -> Settings:
    """What HFT_BACKUP_EVERY_S, HFT_BACKUP_KEEP and HFT_BACKUP_DIR say. Raises InvalidSettings."""
    folder = Path(environ.get(DIR) or site_dir / FOLDER).expanduser().absolute()
    default = Settings(folder)
    every_s = _number(environ, EVERY, default.every_s)
    keep = _number(environ, KEEP, default.keep)
    if keep != int(keep):
        raise InvalidSettings(f"{KEEP}: found {keep:g}, wanted a whole number")
    return Settings(folder, every_s, int(keep))


def _number(environ: Mapping[str, str], variable: str, default: float) -> float:
    said = environ.get(variable)
    if not said:
        return default
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InvalidSettings(f'{variable}: found "{said}", wanted a number')
    return found


def name(site: str, wall_ns: int, ending: str = ENDING) -> str:
    """Of a file; names sort by age."""
    return f"{site}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(wall_ns / 1e9))}.{ending}"


def kept(folder: Path, site: str, ending: str = ENDING) -> list[Path]:
    """The scheduled ones of the site, oldest first."""
    wanted = re.compile(rf"{re.escape(site)}-{_STAMP}\.{re.escape(ending)}")
    try:
        return sorted(path for path in folder.iterdir() if wanted.fullmatch(path.name))
    except FileNotFoundError:
        return []


def newest(settings: Settings, site: str) -> Path | None:
    try:
        return kept(settings.folder, site)[-1]
    except (OSError, IndexError):
        return None


def taken_s(path: Path) -> float:
    """UNIX time of a backup by its name; by name, as a copied file has another date."""
    stamp = path.name.rpartition("-")[2].partition(".")[0]
    return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))


def due_in_s(settings: Settings, site: str, now_s: float) -> float:
    """Until the next; 0: now. One from the future (a clock that was set back) is no reason to wait longer
    than the interval.
    """
    found = kept(settings.folder, site)
    if not found:
        return 0.0
    age_s = now_s - taken_s(found[-1])
    return min(settings.every_s, max(0.0, settings.every_s - age_s))


def trim(settings: Settings, site: str) -> list[Path]:
    """Delete the oldest beyond `keep`; returns those. Raises OSError."""
    gone = kept(settings.folder, site)[: -settings.keep]
    for ending in native.ENDINGS.values():
        gone += kept(settings.folder, site, ending)[: -min(settings.keep, NATIVE_KEPT_MAX)]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone
