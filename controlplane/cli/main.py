"""hftctl: from the command line to an exit code. The verbs are in verbs.py, which imports a verb's file when
the verb is typed.

`status` has 200 ms in all, and typer with what it imports takes 150 of them: a plain `hftctl status` (at most
-o, --site-dir, --timeout) is read here by hand; whatever else stands on the line goes to typer. Errors are
one line on stderr, never a traceback. Exit codes: 0 fine, 1 degraded or refused, 2 usage or bad input, 3
floor or store unreachable, 4 timed out with the outcome unknown, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from controlplane.cli import stderr
from controlplane.cli.output import ASK_TIMEOUT_S, Output
from controlplane.errors import HftctlError


class PlainStatus(NamedTuple):
    site_dir: Path | None
    output: Output
    timeout_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line."""
    try:
        code = _run(arguments)
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


def _run(arguments: Sequence[str]) -> int:
    plain = plain_status(arguments) if "_HFTCTL_COMPLETE" not in os.environ else None
    if plain is not None:
        from controlplane.cli import status_text

        return status_text.run(plain.site_dir, plain.output, plain.timeout_s)
    from controlplane.cli import verbs

    return verbs.dispatch(list(arguments))


def plain_status(arguments: Sequence[str]) -> PlainStatus | None:
    """The command line if it is a plain `status`; None for every other, right or wrong: typer judges that."""
    if not arguments or arguments[0] != "status":
        return None
    given: dict[str, str] = {}
    names = {"-o": "output", "--output": "output", "--site-dir": "site_dir", "--timeout": "timeout"}
    rest = iter(arguments[1:])
    for word in rest:
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if option not in names:
            return None
        value = value if equals else next(rest, "")
        if not value or value.startswith("-"):
            return None
        given[names[option]] = value
    try:
        timeout_s = float(given.get("timeout", ASK_TIMEOUT_S))
        output = Output(given.get("output", "table"))
    except ValueError:
        return None
    if timeout_s < 0.1:
        return None
    return PlainStatus(Path(given["site_dir"]) if "site_dir" in given else None, output, timeout_s)


if __name__ == "__main__":
    main()
