"""`hftd NAME`: one trading daemon in this process, under an agent (its environment says everything) or by
hand (`--config FILE`).

Which daemons there are: catalogue.py. Exit 2: bad arguments, config or settings, said in one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from controlplane.errors import HftctlError, InvalidInput
from controlplane.host import first_process, title
from controlplane.host.log_line import printable
from hftd import catalogue, runtime
from hftd.runtime import parent
from hftd.sched import policy

USAGE = "usage: hftd NAME [--config FILE]"


def start(arguments: Sequence[str]) -> int:
    if len(arguments) == 1 and not arguments[0].startswith("-"):
        parent.die_with_shim(os.environ)
        kind = catalogue.kind_of(arguments[0])
        build = catalogue.load(kind)
        context = runtime.Context.from_environment()
        title.show(f"{context.instance}@{context.site}", ["hftd", *arguments])
        settings = catalogue.settings_of(kind, context.config.settings, f"config of {context.instance}")
        context.configure(settings, lambda given: catalogue.settings_of(kind, given, "wanted"))
        loop = build(context, settings)
        left_out = policy.take(os.environ.get("HFT_SCHED", "other"))
        if left_out:
            context.event("host.left_out", text=left_out)
        return loop.run()
    if len(arguments) == 3 and "--config" in arguments[:2] and not arguments[0].startswith("-"):
        from hftd.standalone import run

        return run.start(catalogue.kind_of(arguments[0]), Path(arguments[2]))
    if arguments in (["-h"], ["--help"]):
        names = ", ".join(catalogue.names())
        print(
            f"{USAGE}\n\nNAME: {names}.\nWithout --config the environment of an agent is needed "
            "(HFT_INSTANCE, HFT_AGENT, HFT_CONFIG ...)."
        )
        return 0
    raise InvalidInput(USAGE)


def main() -> None:
    first_process.leave_to_another()
    try:
        code = start(sys.argv[1:])
    except HftctlError as exc:
        for line in str(exc).splitlines():
            print(f"hftd: {printable(line)}", file=sys.stderr, flush=True)
        code = exc.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
