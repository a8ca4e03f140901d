"""Python environments of their own, for libraries that cannot stand beside ours: made once from PyPI, and
kept in the cache beside the servers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import servers

MAKE_S_MAX = 300


def python_with(*packages: str) -> Path:
    """The interpreter of an environment with exactly these pins. Raises OSError, SubprocessError."""
    name = "env-" + "-".join(each.replace("==", "-") for each in packages)
    folder = servers.cache() / name
    done = folder / "done"
    with servers.locked():
        if not done.exists():
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=MAKE_S_MAX
            )
            subprocess.run(
                [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *packages],
                check=True,
                timeout=MAKE_S_MAX,
                capture_output=True,
            )
            done.touch()
    return folder / "bin" / "python"
