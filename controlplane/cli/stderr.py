"""What went wrong, on stderr: one line (a services.yml with several faults: one line a fault), never a
traceback, and nothing that a terminal obeys, whatever the text quotes.
"""

from __future__ import annotations

import sys

from controlplane.host.log_line import printable


def say(text: str) -> None:
    for line in text.splitlines() or [""]:
        print(f"hftctl: {printable(line)}", file=sys.stderr)
