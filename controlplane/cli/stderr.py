"""What went wrong, on stderr: one line (a services.yml with several faults: one line a fault), never a
traceback.
"""

from __future__ import annotations

import sys


def say(text: str) -> None:
    for line in text.splitlines() or [""]:
        print(f"hftctl: {line}", file=sys.stderr)
