"""hftctl: from a command line to an exit code, a file a noun.

main.py is the entry, verbs.py the table of verbs; dispatch.py has plain.py run an ordinary line and
with_typer.py every other. Other packages bring verbs by the entry point `hftctl.verbs`, and declare and print
as ours do: declare.py, options.py and render.py.
"""

__all__ = ["declare", "options", "render"]
