"""hftctl: from the command line to an exit code. The verbs are in verbs.py; dispatch.py imports a
verb's file when the verb is typed.

Every verb has 100 ms in all, Python's own start included: what a verb does not need for its answer is not
imported (ADR 0026; test_verb_imports.py keeps it so). Errors are one line on stderr, never a traceback. Exit
codes: 0 fine, 1 degraded or refused, 2 usage or bad input, 3 floor or store unreachable, 4 timed out with the
outcome unknown, 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from controlplane.cli import stderr
from controlplane.errors import HftctlError

GC_THRESHOLD = 50_000
"""Imports make tens of thousands of objects that all live on; searching them for garbage again and again
costs 5 ms. A verb that stays (`up`, `status --watch`) still collects, each time that it has made this many.
"""


def main() -> None:
    gc.set_threshold(GC_THRESHOLD)
    if os.getpid() == 1:
        from controlplane.host import first_process  # here: no verb needs it outside of a container

        first_process.leave_to_another()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed from the start
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # "µ" in a Latin-less locale
    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            OSError, ValueError, AttributeError
        ):  # its reader has gone, or it was closed from the start
            stream.flush()
    os._exit(code)  # nothing is left to close; taking every module apart one by one would cost 10 ms


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line."""
    try:
        from controlplane.cli.dispatch import dispatch

        code = dispatch(list(arguments))
        sys.stdout.flush()
        return code
    except HftctlError as exc:
        stderr.say(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader (head, less) has gone: nothing to say to it
        return 1
    except Exception as exc:
        if os.environ.get("HFT_DEBUG"):
            raise
        stderr.say(f"unexpected {type(exc).__name__}: {exc} (a fault of hftctl; HFT_DEBUG=1 shows where)")
        return 1


if __name__ == "__main__":
    main()
