"""The verbs of hftctl: their names here, their files imported one at a time when a verb is typed.

Verbs of other packages (`data`, `audit`) come by the entry point group `hftctl.verbs`, looked at only when a
word is not found here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
import typer.core
import typer.main

from controlplane.cli import stderr
from controlplane.cli.options import Output

VERBS_GROUP = "hftctl.verbs"
VERBS: dict[str, str] = {
    "up": "up:up",
    "down": "down:down",
    "status": "status:status",
    "services": "services:services",
    "endpoints": "services:endpoints",
    "health": "services:health",
    "host": "host:host",
    "logs": "logs:logs",
    "events": "events:events",
    "orders": "trading:orders",
    "positions": "trading:positions",
    "history": "leadership:history",
    "failover": "leadership:failover",
}
"""Verb -> file of this folder and the function or Typer in it."""


class Verbs(typer.core.TyperGroup):
    """A group that knows the names of its commands and imports them one at a time."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*VERBS, *sorted(name for name in _foreign() if name not in VERBS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if place := VERBS.get(cmd_name):
            module, _, name = place.partition(":")
            return _command(cmd_name, getattr(import_module(f"controlplane.cli.{module}"), name))
        if entry := _foreign().get(cmd_name):
            return _command(cmd_name, entry.load())
        return None


def _foreign() -> dict[str, Any]:
    from importlib import metadata  # 20 ms: only when a word is none of ours

    return {entry.name: entry for entry in metadata.entry_points(group=VERBS_GROUP)}


def _command(name: str, target: Any) -> Any:
    """A click command of a plain function or of a Typer with verbs of its own."""
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
    output: Annotated[
        Optional[Output], typer.Option("--output", "-o", help="For the verb that follows.")
    ] = None,
    site_dir: Annotated[Optional[Path], typer.Option("--site-dir", help="For the verb that follows.")] = None,
) -> None:
    """Runs and looks after a trading floor."""
    given: dict[str, Any] = {
        key: value for key, value in (("output", output), ("site_dir", site_dir)) if value is not None
    }
    if given and ctx.invoked_subcommand:
        given[ctx.invoked_subcommand] = given
        if ctx.invoked_subcommand not in VERBS or ctx.invoked_subcommand == "host":  # nouns with verbs below
            given |= dict.fromkeys(("list", "verify"), given)
        ctx.default_map = given


def dispatch(arguments: Sequence[str] | None) -> int:
    """Run one command line; usage errors are said here, HftctlError is left to the caller."""
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="hftctl", standalone_mode=False)
    except typer.Exit as exc:
        return int(exc.exit_code)
    except typer.Abort:
        return 130
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
