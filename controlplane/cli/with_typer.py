"""Every command line that is not plain (plain.py): help, completion, usage errors, other packages' verbs.

typer gets the same declarations as plain.py reads. It is pinned below 0.29, which imports pydantic for the
first option that it meets (ADR 0026). No verb's file is imported to name a verb (verbs.py has the names).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Annotated, Any, get_args, get_origin

import typer
import typer.core
import typer.main
from typer import _completion_classes
from typer._click.shell_completion import CompletionItem

from controlplane.cli import complete, declare, foreign, options, plain, stderr, verbs
from controlplane.cli.declare import Argument, Noun, Option

# For zsh and fish typer strips rich's markup from help texts, and imports rich for it. Ours have none.
_completion_classes._sanitize_help_text = lambda text: text


class Verbs(typer.core.TyperGroup):
    """A group that knows the names of its commands and imports them one at a time."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*verbs.VERBS, *sorted(name for name in foreign.places() if name not in verbs.VERBS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if verb := verbs.VERBS.get(cmd_name):
            return _command(cmd_name, declare.at(verb.place))
        if place := foreign.places().get(cmd_name):
            return _command(cmd_name, foreign.load(place))
        return None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb.name, verb.get_short_help_str(limit=200)) for verb in self.listed(ctx)])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names of verbs, each with its line of help, then what any command completes. Nothing is imported to
        name a verb; another package's has no help here.
        """
        helps = {name: verb.help for name, verb in verbs.VERBS.items()}
        return [
            *(
                CompletionItem(name, help=helps.get(name))
                for name in self.list_commands(ctx)
                if name.startswith(incomplete)
            ),
            *super(typer.core.TyperGroup, self).shell_complete(ctx, incomplete),
        ]

    def listed(self, ctx: Any) -> list[Any]:
        """The verbs, to be named, not run: no verb's file of ours is imported.

        A verb of another package that cannot be loaded is listed with the reason; the others stay usable.
        """
        found = []
        for name in self.list_commands(ctx):
            try:
                command = None if name in verbs.VERBS else self.get_command(ctx, name)
            except Exception as exc:
                command = typer.core.TyperCommand(name, help=f"Cannot be loaded: {type(exc).__name__}: {exc}")
            found.append(command or typer.core.TyperCommand(name, help=verbs.VERBS[name].help))
        return found


def _command(name: str, target: Any) -> Any:
    """A command of a function, of a Noun, or of another package's Typer."""
    if isinstance(target, Noun):
        app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True, help=target.help)
        app.callback()(lambda: None)  # verbs below it, even if there is only one
        for each, function in target.verbs.items():
            line = complete.first_line(function)  # not cut to 45 characters
            app.command(each, short_help=line)(_for_typer(function))
    elif isinstance(target, typer.Typer):
        app = target
    else:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(_for_typer(target))
    command = typer.main.get_command(app)
    command.name = name
    return command


def _for_typer(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with its options and arguments declared in typer's words; another package's has them
    already.
    """
    if not isinstance(function, FunctionType):
        return function
    code, scope = function.__code__, function.__globals__
    twin = FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__doc__ = function.__doc__
    twin.__annotations__ = {name: _hint(hint) for name, hint in plain.declared(function).items()}
    return twin


def _hint(hint: Any) -> Any:
    kind, how = (*get_args(hint), None)[:2] if get_origin(hint) is Annotated else (hint, None)
    if isinstance(how, Option):
        # Whether a path may be read is said by who reads it, who knows what for and whose it is.
        return Annotated[
            kind,
            typer.Option(
                *how.names,
                help=how.help,
                min=how.min,
                max=how.max,
                envvar=how.envvar,
                readable=False,
                autocompletion=_completion(how.complete),
            ),
        ]
    if isinstance(how, Argument):
        return Annotated[
            kind,
            typer.Argument(
                help=how.help,
                metavar=how.metavar,
                readable=False,
                autocompletion=_completion(how.complete),
            ),
        ]
    return hint


def _completion(place: str) -> Callable[..., Any] | None:
    if not place:
        return None

    def candidates(ctx: Any, incomplete: str) -> list[complete.Candidate]:
        given, loose = dict(ctx.params), iter(ctx.args)
        for (
            each
        ) in ctx.command.params:  # behind an option whose value is still typed, click gives no argument
            if each.param_type_name == "argument" and given.get(each.name) is None:
                given[each.name] = next(loose, None)
        return list(complete.known(place, given, incomplete))

    return candidates


app = typer.Typer(
    cls=Verbs,
    name="hftctl",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Runs and looks after a trading floor.",
)


def hftctl(ctx: typer.Context, output: Any = None, site_dir: Any = None, timeout: Any = None) -> None:
    """Runs and looks after a trading floor."""
    before = {"output": output, "site_dir": site_dir, "timeout": timeout}
    given: dict[str, Any] = {name: value for name, value in before.items() if value is not None}
    if given and ctx.invoked_subcommand and isinstance(ctx.command, Verbs):
        noun = ctx.command.get_command(ctx, ctx.invoked_subcommand)
        below = dict.fromkeys(getattr(noun, "commands", ()), given)
        ctx.default_map = {ctx.invoked_subcommand: given | below}


hftctl.__annotations__ = {"ctx": typer.Context} | {name: _hint(hint) for name, hint in options.BEFORE.items()}
app.callback()(hftctl)


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line; usage errors are said here, HftctlError is left to the caller."""
    try:
        code = typer.main.get_command(app).main(
            args=list(arguments), prog_name="hftctl", standalone_mode=False
        )
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
