"""One command line, run: a plain one by plain.py, every other one by typer (with_typer.py), which also finds
the verbs of other packages; completion of a plain one by complete.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from controlplane.cli import plain
from controlplane.cli.verbs import VERBS

COMPLETE = "_HFTCTL_COMPLETE"
"""Set by a shell that asks for completion."""


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; HftctlError is left to the caller."""
    if COMPLETE in os.environ:
        from controlplane.cli import complete

        told = complete.answer(os.environ, os.environ[COMPLETE].removeprefix("complete_"), VERBS)
        if told is not None:
            print(told)
            return 0
    else:
        places = {name: verb.place for name, verb in VERBS.items()}
        if (call := plain.read(arguments, places)) is not None:
            return call.run()
    from controlplane.cli import with_typer

    return with_typer.dispatch(arguments)
