"""What an agent answers, read by name. mypy takes it for the struct that the agent built (site/document.py);
at run time it is JSON, because msgspec and what it imports cost a verb more than all of hftctl's own code
(ADR 0026).
"""

from __future__ import annotations

import json
from typing import Any

from controlplane.errors import InvalidInput


class Answer(dict[str, Any]):
    """A JSON object whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):
            raise AttributeError(name)  # of Python's own protocols
        raise InvalidInput(f'the agent\'s answer has no "{name}": is it of another release than this hftctl?')


def read(body: bytes) -> Any:
    """Raises InvalidInput: it is not a JSON object."""
    try:
        found = json.loads(body, object_hook=Answer)
    except ValueError as exc:
        raise InvalidInput(f"the agent's answer does not decode: {exc}") from exc
    if not isinstance(found, Answer):
        raise InvalidInput(f"the agent's answer: found {type(found).__name__}, wanted a JSON object")
    return found
