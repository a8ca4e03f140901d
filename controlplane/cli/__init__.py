"""hftctl: from a command line to an exit code, a file a noun.

main.py is the entry, verbs.py the table of verbs. Other packages bring verbs by the entry point
`hftctl.verbs`, and share the options and the printing with ours: options.py and render.py.
"""

__all__ = ["options", "render"]
