"""One daemon as built, in this process, with the test as its agent: what the agent says is handed to its
loop, and the daemon behind it is at hand.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from controlplane.host import identity
from hftd import catalogue, runtime
from hftd.runtime import context as contexts
from hftd.shm import pages
from hftd.wire import codec, control
from tests.support import store_tokens


class Built:
    def __init__(self, folder: Path, name: str, given: dict[str, Any], flags: dict[str, Any]) -> None:
        self.kind = catalogue.kind_of(name)
        process = identity.identify(f"{name}-alpha-1")
        assert process is not None
        alive, lease = folder / f"{name}.alive", folder / f"{name}.lease"
        pages.create(alive, pages.ALIVE_MAGIC)
        pages.create(lease, pages.LEASE_MAGIC)
        (folder / "site").mkdir()
        data = folder / "data"
        self.context = runtime.Context(
            site="lab",
            host="alpha",
            service=name,
            process=process,
            config=contexts.Config(1, name, folder, folder / "site", data, data / "journal", given, flags),
            alive=alive,
            lease_word=lease if self.kind.name in ("riskd", "omsd", "execd") else None,
        )
        self.context.store_tokens.tell(store_tokens.on_wire())
        settings = catalogue.settings_of(self.kind, given, "test")
        self.context.configure(settings, lambda wanted: catalogue.settings_of(self.kind, wanted, "wanted"))
        followers: list[Any] = []
        loop = Spied(self.context, followers)
        made = runtime.Loop
        module = import_module(self.kind.module)
        runtime.Loop = lambda _: loop  # type: ignore[misc, assignment]
        try:
            self.loop: runtime.Loop = module.build(self.context, settings)
        finally:
            runtime.Loop = made  # type: ignore[misc]
        (follower,) = followers
        self.daemon = follower.__self__
        """Whose method follows the settings."""

    @property
    def settings(self) -> dict[str, Any]:
        """In force, as an agent sends them."""
        found: dict[str, Any] = msgspec.to_builtins(asdict(self.context.in_force.settings))
        return found

    def reload(self, revision: int, settings: dict[str, Any]) -> None:
        self.tell(control.Reload, revision, settings)

    def tell(self, make: Any, *fields: Any) -> None:
        self.loop._from_agent(codec.encode(make(codec.VERSION, 1, 0, "agent", None, *fields)))

    def close(self) -> None:
        for stop in self.loop._on_stop:
            stop()
        for socket, _ in self.loop._handlers:
            socket.close()


class Spied(runtime.Loop):
    def __init__(self, context: runtime.Context, followers: list[Any]) -> None:
        super().__init__(context)
        self._seen = followers

    def on_settings(self, run: Any) -> None:
        self._seen.append(run)
        super().on_settings(run)


@contextlib.contextmanager
def built(
    name: str, given: dict[str, Any] | None = None, flags: dict[str, Any] | None = None
) -> Iterator[Built]:
    with tempfile.TemporaryDirectory(prefix="b-") as folder:  # short: sockets are in it
        one = Built(Path(folder), name, given or {}, flags or {})
        try:
            yield one
        finally:
            one.close()
