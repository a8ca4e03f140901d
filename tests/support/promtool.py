"""Prometheus' own check of a metrics page: where promtool comes from, and what it says.

`python -m tests.support.promtool` prints its path, getting it when it is missing: HFT_PROMTOOL, PATH, the
cache, or Debian's package `prometheus`, unpacked and not installed. It stays in $XDG_CACHE_HOME/hftctl.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import servers

GET_S_MAX = 300


def at_hand() -> Path | None:
    for found in (os.environ.get("HFT_PROMTOOL"), shutil.which("promtool"), servers.cache() / "promtool"):
        if found and Path(found).is_file():
            return Path(found)
    return None


def unpack_debian() -> Path:
    """Raises OSError or SubprocessError."""
    kept = servers.cache() / "promtool"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        download = ["apt-get", "download", "prometheus"]
        subprocess.run(download, cwd=scratch, check=True, capture_output=True, timeout=GET_S_MAX)
        (package,) = Path(scratch).glob("prometheus_*.deb")
        unpack = ["dpkg-deb", "-x", str(package), f"{scratch}/x"]
        subprocess.run(unpack, check=True, capture_output=True, timeout=60)
        (Path(scratch) / "x/usr/bin/promtool").replace(kept)
    return kept


def faults(promtool: Path, page: bytes) -> list[str]:
    """What `promtool check metrics` has against a page; empty when nothing."""
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=60)
    said = (done.stdout + done.stderr).decode().splitlines()
    return said or ([f"exit {done.returncode}"] if done.returncode else [])


def main() -> None:
    try:
        print(at_hand() or unpack_debian())
    except (OSError, subprocess.SubprocessError) as exc:
        detail = exc.stderr.decode(errors="replace") if isinstance(exc, subprocess.CalledProcessError) else ""
        # Not an error: everything else can be tested without it. In CI its skipped tests fail the run.
        print(f"no promtool, its tests are skipped: {exc} {' '.join(detail.split())}", file=sys.stderr)


if __name__ == "__main__":
    main()
