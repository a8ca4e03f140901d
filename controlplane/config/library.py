"""Configuration for other programs: plain keys read, put and watched, and services' documents watched.

    async with config.connect("etcd://127.0.0.1:2379", site="lab") as conf:
        await conf.put("max_position", 5, reason="a quiet day")
        conf.watch("max_position", callback)
        if conf.flag("kill_switch"):
            ...

and for a program without an event loop:

    with config.connect_in_thread("consul://127.0.0.1:8500", site="lab") as conf:
        conf.get("max_position")

A watched name is a plain key, or SERVICE.PATH for a setting of a service's document, as it is wanted. With
prefix "" a key stands in the store as config/<key>, and a bare value that another client puts there is read.
A store that is away changes nothing but `age_s`: what was known last stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from controlplane import store as stores
from controlplane.config import documents, plain, revisions
from controlplane.errors import InvalidInput
from controlplane.host import log
from controlplane.host.in_thread import InThread, in_thread
from controlplane.model import bounds
from controlplane.model.config import KILL_SWITCH
from controlplane.settings import StoreSettings
from controlplane.site import nouns
from controlplane.site.follower import Follower
from controlplane.site.view import SiteView
from controlplane.store import Keys, Store

FIRST_S = 10.0
"""For the first answer of the store: several tries, also of a store that is just electing."""
Callback = Callable[[Any], object]
"""Called with the new value, and with None when there is none any more."""


class _Watched:
    """One name with its callback, and the value that it was called with last."""

    def __init__(self, name: str, callback: Callback) -> None:
        self.name, self.callback = name, callback
        self.value: Any = None

    def __repr__(self) -> str:
        return f"<watch of {self.name}>"

    def show(self, value: Any) -> None:
        if documents.same(value, self.value):
            return
        self.value = value
        try:
            self.callback(value)
        except Exception as exc:
            log.error("config.callback_failed", key=self.name, reason=repr(exc))


class Config:
    """For one event loop; `flag` and `age_s` from any thread."""

    def __init__(self, store: Store, keys: Keys, follower: Follower) -> None:
        self._store, self._keys, self._follower = store, keys, follower
        self._values: dict[str, Any] = {}
        self._watched: list[_Watched] = []
        self.flag: Callable[..., Any] = self._values.get
        """`flag(key)`, `flag(key, default)`: a plain key's value from memory, None or the default when there
        is none; a look-up in a dict. `kill_switch` is true as well when what stands there is no value and was
        none before."""
        follower.tell(self._take, "plain", "config", "specs", "undecodable")

    def __repr__(self) -> str:
        return f"<Config {self._keys.config}: {len(self._values)} keys, {self.age_s():.1f} s old>"

    def age_s(self) -> float:
        """How long ago what is in memory was last known to be the store's own."""
        return self._follower.age_s()

    async def get(self, key: str) -> Any:
        """A plain key's value, or SERVICE.PATH of a document, read from the store; None: it is not there.

        Raises:
            InvalidInput: no such name, or what stands there is no value. Unavailable.
        """
        service, dot, path = key.partition(".")
        if dot:
            plain.check_key(service)
            documents.parts(path)
            stands = await revisions.read(self._store, self._keys, service)
            if stands.spec is not None:
                return _at(stands.document, path)
        found = await plain.get(self._store, self._keys, key)
        return found.value if found is not None else None

    async def put(
        self,
        key: str,
        value: Any,
        *,
        type: str = "",
        ttl_s: float | None = None,
        reason: str = "",
        actor: str = "",
    ) -> None:
        """Put a plain key, in place of what stands there. `ttl_s`: the store deletes it by itself that long
        after, on Consul within twice that; to keep it, put it again. `actor`: this program when left out.

        Raises:
            InvalidInput, TooLarge: key, value or TTL, or as many keys as there may be. Unavailable: with
            `ambiguous` it may stand.
        """
        record = plain.made(
            key,
            value,
            type,
            ttl_s=ttl_s,
            actor=bounds.cut(actor or f"{Path(sys.argv[0]).name or 'a program'} ({os.getpid()})"),
            reason=bounds.cut(reason),
            set_ns=time.time_ns(),
        )
        view = self._follower.view
        self._require_free(key, view)
        await plain.put(self._store, self._keys, key, record, view.plain.keys() if view is not None else ())

    async def delete(self, key: str) -> None:
        """Of a plain key; one that is not there is fine. Raises InvalidInput, Unavailable."""
        await plain.delete(self._store, self._keys, key)

    def watch(self, key: str, callback: Callback) -> Callable[[], None]:
        """Call `callback` with the value that stands, as soon as it is known, and at each change: changes
        that follow on each other fast are one. What it returns ends the watch. The callback is called in the
        event loop and may not wait; one that raises is logged, and is called again at the next change.

        Raises InvalidInput: no such name. TypeError: the callback is a coroutine function.
        """
        if inspect.iscoroutinefunction(callback):
            raise TypeError(f"config.watch {key}: found a coroutine function, wanted a plain one")
        documents.parts(key)
        if "." not in key:
            plain.check_key(key)
        watched = _Watched(key, callback)
        self._watched.append(watched)
        if self._follower.view is not None:
            self._show(watched, self._follower.view)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._watched.remove(watched)

        return end

    @staticmethod
    def _require_free(key: str, view: SiteView | None) -> None:
        service, dot, _ = key.partition(".")
        if dot and view is not None and service in view.specs:
            raise InvalidInput(
                f"key {key}: found the service {service} before a dot, wanted another name: this one is read "
                f"as a setting of {service}"
            )

    def _take(self, changes: nouns.Changes) -> None:
        view = self._follower.view
        if view is None:
            return
        if "plain" in changes or "undecodable" in changes:
            found = {key: record.value for key, record in view.plain.items()}
            if KILL_SWITCH not in found and self._keys.plain_key(KILL_SWITCH) in view.undecodable:
                found[KILL_SWITCH] = True
            self._values.update(found)
            for key in self._values.keys() - found.keys():
                del self._values[key]
        for watched in tuple(self._watched):
            self._show(watched, view)

    def _show(self, watched: _Watched, view: SiteView) -> None:
        service, dot, path = watched.name.partition(".")
        if dot and service in view.specs:
            watched.show(_at(_document(view, service), path, watched.value))
        else:
            watched.show(self._values.get(watched.name))


def _document(view: SiteView, service: str) -> Mapping[str, Any] | None:
    """That is wanted, without a rollout; None: its row is damaged or not here yet."""
    held = view.configs.get(service)
    if held is None or held.current is None:
        return view.specs[service].settings
    row = held.revisions.get(held.current.revision)
    return row.document if row is not None else None


def _at(document: Mapping[str, Any] | None, path: str, last: Any = None) -> Any:
    if document is None:
        return last
    try:
        return documents.get(document, path)
    except InvalidInput:
        return None


# --- opening it ---------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connect(
    where: str | Store,
    site: str = "lab",
    *,
    prefix: str | None = None,
    settings: StoreSettings | None = None,
    first_s: float | None = FIRST_S,
) -> AsyncIterator[Config]:
    """A site's configuration, for the time of the block.

    `where` is an address as store.connect takes it, or a store that the caller closes; `prefix` what stands
    before every key (hft/<site> when left out; "": nothing). Entering waits up to `first_s` for what the
    store has; None: not at all, and nothing is known until it has come.

    Raises:
        InvalidSettings: no such kind of store. Unavailable: it did not answer within `first_s`.
    """
    client = stores.connect(where, settings) if isinstance(where, str) else where
    keys = Keys(site, prefix)
    follower = Follower(client, keys, only=(keys.config, keys.specs))
    conf = Config(client, keys, follower)
    task = asyncio.create_task(follower.run(), name="config: view")
    task.add_done_callback(_say_why)
    try:
        if first_s is not None:
            await follower.first_view(first_s)
        yield conf
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if isinstance(where, str):
            await client.close()


def _say_why(task: asyncio.Task[None]) -> None:
    """It does not end by itself; a mistake of ours that ends it must be heard of."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        consequence = "what is known of the configuration stays as it is, and its age grows"
        log.error("config.ended", reason=repr(exc), consequence=consequence)


class Blocking:
    """The same for a program without an event loop: a thread keeps it. From any thread."""

    def __init__(self, held: InThread[Config]) -> None:
        self._held = held
        self.flag: Callable[..., Any] = held.value.flag
        """As Config.flag: it waits for nothing, the thread neither."""

    def __repr__(self) -> str:
        return f"<Blocking {self._held.value!r}>"

    def age_s(self) -> float:
        return self._held.value.age_s()

    def get(self, key: str) -> Any:
        return self._held.call(lambda: self._held.value.get(key))

    def put(self, key: str, value: Any, **options: Any) -> None:
        self._held.call(lambda: self._held.value.put(key, value, **options))

    def delete(self, key: str) -> None:
        self._held.call(lambda: self._held.value.delete(key))

    def watch(self, key: str, callback: Callback) -> Callable[[], None]:
        """As Config.watch; the calls come in the thread."""

        async def begin() -> Callable[[], None]:
            return self._held.value.watch(key, callback)

        end = self._held.call(begin)

        async def ended() -> None:
            end()

        def stop() -> None:
            with contextlib.suppress(RuntimeError):  # the context has been left, and the watch with it
                self._held.call(ended)

        return stop


@contextlib.contextmanager
def connect_in_thread(where: str, site: str = "lab", **options: Any) -> Iterator[Blocking]:
    """`connect` with the same options, without `async`."""
    with in_thread(lambda: connect(where, site, **options), "configuration") as held:
        yield Blocking(held)
