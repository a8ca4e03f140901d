"""The verbs of hftctl: a name, a place and a line of help each. A verb's file is imported only when the verb
is typed; the list of verbs (`--help`, completion) is made without importing any of them.

typer reads the command line by the annotations of the verb's function. It is pinned below 0.29, which imports
pydantic for the first option that it meets (ADR 0026). Verbs of other packages come by foreign.py, when a
word is not found here or all are listed. A new verb is a line in VERBS and a function in its noun's file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import typer
import typer.core
import typer.main
from typer import _completion_classes

from controlplane.cli import foreign, stderr
from controlplane.cli.options import OutputBefore, SiteDirBefore, TimeoutBefore


class Verb(NamedTuple):
    place: str
    """File of this folder and the function or Typer in it."""
    help: str
    """How its own help begins; test_verb_imports.py compares them."""


VERBS: dict[str, Verb] = {
    "up": Verb("up:up", "Start the floor, or change what a running one shall be."),
    "down": Verb("down:down", "Stop everything of a floor: no process, socket or shared memory is left."),
    "apply": Verb("specs:apply", "Make the floor's services what a file says; the change is shown first."),
    "diff": Verb("specs:diff", "Say what `apply` of a services file would change."),
    "status": Verb("status:status", "Hosts, services, leaders, flow and alarms of the site."),
    "services": Verb("services:services", "The services of the site: wanted, running, led by."),
    "endpoints": Verb("services:endpoints", "Where the instances of a service listen."),
    "health": Verb("services:health", "Health of instances; exit 1 when one is not passing."),
    "host": Verb("host:host", "Hosts of the site."),
    "logs": Verb("logs:logs", "The log of one instance."),
    "events": Verb("events:events", "Events of the site, oldest first."),
    "orders": Verb("trading:orders", "Orders, oldest first, as the leading omsd has them."),
    "positions": Verb(
        "trading:positions", "Positions and cash by instrument, ours beside the venue's own account."
    ),
    "history": Verb(
        "leadership:history", "Every change of leader of a service, with cause, actor and reason."
    ),
    "failover": Verb("leadership:failover", "Kill the leader of a service and let a standby lead."),
}

# For zsh and fish typer strips rich's markup from help texts, and imports rich for it. Ours have none.
_completion_classes._sanitize_help_text = lambda text: text


class Verbs(typer.core.TyperGroup):
    """A group that knows the names of its commands and imports them one at a time."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*VERBS, *sorted(name for name in foreign.places() if name not in VERBS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if verb := VERBS.get(cmd_name):
            module, _, name = verb.place.partition(":")
            return _command(cmd_name, getattr(import_module(f"controlplane.cli.{module}"), name))
        if place := foreign.places().get(cmd_name):
            return _command(cmd_name, foreign.load(place))
        return None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, verb.get_short_help_str(limit=200)) for verb in self.listed(ctx)])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What typer completes, from commands that have a name and a line of help and nothing else."""
        known = {str(verb.name): verb for verb in self.listed(ctx, incomplete)}
        return typer.core.TyperGroup(name=self.name, commands=known, params=self.params).shell_complete(
            ctx, incomplete
        )

    def listed(self, ctx: Any, beginning: str = "") -> list[Any]:
        """The verbs with this beginning, to be named, not run: no verb's file of ours is imported.

        A verb of another package that cannot be loaded is listed with the reason; the others stay usable.
        """
        found = []
        for name in self.list_commands(ctx):
            if not name.startswith(beginning):
                continue
            try:
                command = None if name in VERBS else self.get_command(ctx, name)
            except Exception as exc:
                command = typer.core.TyperCommand(name, help=f"Cannot be loaded: {type(exc).__name__}: {exc}")
            found.append(command or typer.core.TyperCommand(name, help=VERBS[name].help))
        return found


def _command(name: str, target: Any) -> Any:
    """A command of a plain function, or of a Typer with verbs of its own."""
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(target)
        target = app
    command = typer.main.get_command(target)
    command.name = name
    return command


app = typer.Typer(
    cls=Verbs,
    name="hftctl",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Runs and looks after a trading floor.",
)


@app.callback()
def hftctl(
    ctx: typer.Context,
    output: OutputBefore = None,
    site_dir: SiteDirBefore = None,
    timeout: TimeoutBefore = None,
) -> None:
    """Runs and looks after a trading floor."""
    before = {"output": output, "site_dir": site_dir, "timeout": timeout}
    given: dict[str, Any] = {name: value for name, value in before.items() if value is not None}
    if given and ctx.invoked_subcommand and isinstance(ctx.command, Verbs):
        noun = ctx.command.get_command(ctx, ctx.invoked_subcommand)
        below = dict.fromkeys(getattr(noun, "commands", ()), given)
        ctx.default_map = {ctx.invoked_subcommand: given | below}


def dispatch(arguments: Sequence[str] | None) -> int:
    """Run one command line; usage errors are said here, HftctlError is left to the caller."""
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="hftctl", standalone_mode=False)
    except typer.Exit as exc:
        return int(exc.exit_code)
    except typer.Abort:
        return 130
    except SystemExit as exc:  # how a completion ends
        return exc.code if isinstance(exc.code, int) else 0
    except Exception as exc:
        if not hasattr(exc, "format_message"):  # click's usage errors have it, in every release of typer
            raise
        context = getattr(exc, "ctx", None)
        message = exc.format_message()
        if "\n" in message or not message:  # no arguments at all: click's way to ask for help
            print(message or (context.get_help() if context else ""), file=sys.stderr)
        else:
            stderr.say(f"{message} (see {context.command_path} --help)" if context else message)
        return int(getattr(exc, "exit_code", 2))
    return code if isinstance(code, int) else 0
