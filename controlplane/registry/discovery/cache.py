"""Discovery: who serves what, answered from memory, out of the one view that a Follower keeps.

What it promises: `resolve` asks nobody and, in turn or on the same host, costs some 0.1 µs; a change costs
the service that changed, and nothing for one that nobody asks for; a leader's renewal costs nothing at all.
There is no second copy of a registration: what is kept here refers to the follower's. While the store is away
the last known answer stands, and `age_s` says how old it is.

May be used from any thread; `on_change` calls and `wait_for` waits in the follower's loop. How one is chosen:
balancing.py; who is left out for failing: ejection.py; how it is opened where no follower is yet: opened.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as randoms
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ParamSpec, Protocol

from controlplane import clock as clocks
from controlplane.errors import Unavailable
from controlplane.host import log
from controlplane.host.system_clock import SystemClock
from controlplane.model import ServiceSpec
from controlplane.model.records import LeaderRecord, Registration
from controlplane.registry.discovery import balancing as balancings
from controlplane.registry.discovery import serving as servings
from controlplane.registry.discovery.balancing import Balancing, Chooser, RoundRobin
from controlplane.registry.discovery.ejection import Ejections, EjectionSettings
from controlplane.registry.discovery.serving import ANY, Only, Serving

P = ParamSpec("P")
Changes = Mapping[str, Iterable[str]]
"""As site.nouns has them: kind of record -> the services whose records changed."""

KINDS = ("specs", "services", "led")
"""What an answer is made of: who is registered, who leads, and of a spec the mode. That a leader renewed is
not among them."""

Call = Callable[[str, tuple[Serving, ...]], object]
"""Takes a service and all that are registered for it now."""
Report = Callable[[str, Mapping[str, object]], None]
"""Takes an event's kind and fields."""


class View(Protocol):
    """The part of a site's view that discovery reads."""

    def registered(self, service: str) -> Iterable[Registration]: ...

    @property
    def leaders(self) -> Mapping[str, LeaderRecord]: ...

    @property
    def specs(self) -> Mapping[str, ServiceSpec]: ...


class Source(Protocol):
    """Who keeps the view: site.Follower."""

    @property
    def view(self) -> View | None: ...

    def age_s(self) -> float: ...

    def tell(self, call: Callable[[dict[str, set[str]]], None], *kinds: str) -> None: ...


def to_log(kind: str, fields: Mapping[str, object]) -> None:
    log.warning(kind, **fields)


class Discovery:
    def __init__(
        self,
        source: Source,
        clock: clocks.Clock | None = None,
        *,
        view: Callable[[], View | None] | None = None,
        ejection: EjectionSettings | None = None,
        report: Report = to_log,
        random: randoms.Random | None = None,
    ) -> None:
        """`view`: what to read, where it is not the source's own (an agent has the last good specs over it);
        whoever changes it without the source calls `forget`. `report` gets what is out of order: a callback
        that raises, an instance that is ejected.
        """
        self._source = source
        self._clock = clock or SystemClock()
        self._view = view or (lambda: source.view)
        self._ejections = Ejections(ejection or EjectionSettings())
        self._report = report
        self.random = random or randoms.Random()
        self._lock = threading.RLock()
        self._all: dict[str, tuple[Serving, ...]] = {}
        """Of the services that somebody asked for since they changed."""
        self._balanced: weakref.WeakSet[Balanced] = weakref.WeakSet()
        self._calls: list[_Listener] = []
        self._lifted_ns = self._clock.boot_ns()
        """Ejections that ended until then have been noticed."""
        self._wake: Callable[[], object] = lambda: None
        self.stale = 0
        """Answers that `recheck` found to differ from the view, and mended."""
        self._in_turn = self.by(RoundRobin())
        self.resolve: Callable[[str], Serving | None] = self._in_turn.resolve
        """One that serves, in turn; None: no instance serves, as far as is known here. Other ways to choose:
        `by`."""
        source.tell(self._take, *KINDS)

    def __repr__(self) -> str:
        return f"<Discovery: {len(self._all)} services asked for, {self.age_s():.1f} s old>"

    # --- who serves -----------------------------------------------------------------------------------------

    def serving(self, service: str) -> tuple[Serving, ...]:
        """All that are registered, in order of instance, whatever their health."""
        found = self._all.get(service)
        if found is not None:
            return found
        with self._lock:  # a change that comes between the look and the note would be lost
            view = self._view()
            if view is None:
                return ()
            found = self.of(view, service)
            if found:  # names that nobody serves are not collected
                self._all[service] = found
            return found

    def peers(self, service: str) -> Sequence[Serving]:
        """Those to which a daemon keeps its links open (serving.linked)."""
        return servings.linked(self.serving(service))

    def by(self, balancing: Balancing, only: Only = ANY) -> Balanced:
        """Another way to choose, among those that are wanted. Make it once and keep it."""
        made = Balanced(self, balancing, only)
        with self._lock:
            self._balanced.add(made)
        return made

    def age_s(self) -> float:
        """How long ago what is answered was last known to be the store's own."""
        return self._source.age_s()

    async def wait_for(
        self, service: str, *, timeout_s: float, only: Only = ANY, count: int = 1
    ) -> tuple[Serving, ...]:
        """Wait until so many serve, and return them.

        Raises:
            Unavailable: not within `timeout_s`; what was found instead is named.
        """
        changed = asyncio.Event()
        stop = self.on_change(lambda service, found: changed.set(), service)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    changed.clear()
                    found = self.well(service, only)
                    if len(found) >= count:
                        return found
                    await changed.wait()
        except TimeoutError:
            raise Unavailable(self._missing(service, only, count, timeout_s)) from None
        finally:
            stop()

    def well(self, service: str, only: Only = ANY) -> tuple[Serving, ...]:
        """Those that serve and are wanted, ejected ones too."""
        return tuple(each for each in self.serving(service) if only.admits(each) and only.well(each))

    def _missing(self, service: str, only: Only, count: int, timeout_s: float) -> str:
        found = self.serving(service)
        wanted = f"{count} that serve" if only is ANY else f"{count} that serve with {only}"
        seen = ", ".join(f"{each.instance} ({condition(each.registration)})" for each in found) or "none"
        return (
            f'service "{service}": not found within {timeout_s:g} s: registered: {seen}; wanted {wanted}; '
            f"the store was last heard {self.age_s():.1f} s ago"
        )

    # --- changes --------------------------------------------------------------------------------------------

    def on_change(self, call: Call, *services: str) -> Callable[[], None]:
        """Call it in the loop at each change of these services (of any, when none is named), with all that
        are registered then. One that raises is reported (`discovery.callback_failed`) and called again at the
        next change; the others hear of this one. Returns what ends it.
        """
        listener = _Listener(call, frozenset(services))
        with self._lock:
            self._calls.append(listener)
        for service in services:
            listener.told[service] = self.serving(service)

        def stop() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._calls.remove(listener)

        return stop

    def forget(self, services: Iterable[str] | None = None) -> None:
        """These may be answered otherwise now (None: all); the next question works it out anew."""
        with self._lock:
            names = list(self._all) if services is None else list(services)
            for balanced in list(self._balanced):
                balanced.forget(None if services is None else names)
            for service in names:
                self._all.pop(service, None)

    def _take(self, changes: Changes) -> None:
        names = {name for kind in KINDS for name in changes.get(kind, ())}
        self.forget(names)
        for service in sorted(names) if self._calls else ():
            self._tell(service)

    def _tell(self, service: str) -> None:
        for listener in list(self._calls):
            if listener.services and service not in listener.services:
                continue
            found = self.serving(service)
            if listener.told.get(service, ()) == found:
                continue
            if found:
                listener.told[service] = found
            else:
                listener.told.pop(service, None)
            try:
                listener.call(service, found)
            except (Exception, asyncio.CancelledError) as exc:
                # It is the caller's own, and what it does wrong must harm no other. Nothing is awaited here,
                # so a cancellation is not ours: it looked at a future that was cancelled.
                named = getattr(listener.call, "__qualname__", repr(listener.call))
                self._report(
                    "discovery.callback_failed",
                    {
                        "callback": named,
                        "service": service,
                        "reason": f"{type(exc).__name__}: {exc}",
                        "consequence": "it has missed this change; the others have heard of it",
                    },
                )

    def recheck(self) -> int:
        """Compare what is kept here with the view and forget what differs. Returns how many differed."""
        with self._lock:
            view = self._view()
            if view is None:
                return 0
            wrong = [service for service, found in self._all.items() if found != self.of(view, service)]
            self.forget(wrong)
        self.stale += len(wrong)
        for service in wrong:
            self._tell(service)
        return len(wrong)

    @staticmethod
    def of(view: View, service: str) -> tuple[Serving, ...]:
        """As `serving`, of any view, for who looks once."""
        return servings.serving(view.registered(service), view.specs.get(service), view.leaders.get(service))

    # --- ejection -------------------------------------------------------------------------------------------

    def called(self, found: Serving, ok: bool) -> None:
        """How a call of it ended. After some failures in a row it is left out for a time (ejection.py)."""
        service = found.registration.service
        with self._lock:
            if ok and not self._ejections.holds(service):
                return
            now_ns = self._clock.boot_ns()
            among = {each.process for each in self.well(service)}
            out_s = self._ejections.report(service, found.process, ok, among, now_ns)
            if not out_s:
                return
            self._forget_choices(service)
        self._report(
            "discovery.ejected",
            {"service": service, "instance": found.instance, "for_s": out_s, "why": "its calls fail"},
        )
        self._wake()

    def ejected(self, service: str) -> dict[str, float]:
        """Instance -> seconds until it is in again."""
        with self._lock:
            now_ns = self._clock.boot_ns()
            out = self._ejections.out(service, now_ns)
            registered = [each for each in self.serving(service) if each.process in out]
        return {each.instance: (out[each.process] - now_ns) / 1e9 for each in registered}

    def lift(self) -> float | None:
        """Take in again whose time is over. Returns the seconds until the next one; None: nobody is out."""
        with self._lock:
            now_ns = self._clock.boot_ns()
            for service in self._ejections.ended(self._lifted_ns, now_ns):
                self._forget_choices(service)
            self._lifted_ns = now_ns
            next_ns = self._ejections.next_end_ns(now_ns)
        return None if next_ns is None else (next_ns - now_ns) / 1e9

    async def run(self) -> None:
        """Until cancelled: end ejections in time. Not needed where no call is reported."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(news.set)
        try:
            while True:
                news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.lift()):
                        await news.wait()
        finally:
            self._wake = lambda: None

    def _forget_choices(self, service: str) -> None:
        for balanced in list(self._balanced):
            balanced.forget([service])

    # --- for Balanced ---------------------------------------------------------------------------------------

    def choose_among(self, service: str, only: Only, before: Chooser | None) -> balancings.Candidates:
        everybody = self.serving(service)
        self._ejections.keep(service, [each.process for each in everybody])
        members = tuple(each for each in everybody if only.admits(each))
        candidates = [each for each in members if only.well(each)]
        usable = self._ejections.usable(service, candidates, self._clock.boot_ns())
        return balancings.Candidates(usable, members, self.random, before)

    @property
    def lock(self) -> threading.RLock:
        """Held while anything that is kept here changes."""
        return self._lock


class Balanced:
    """One way to choose, made by `Discovery.by`. A choice asks nobody."""

    def __init__(self, discovery: Discovery, balancing: Balancing, only: Only) -> None:
        self._discovery, self._balancing, self._only = discovery, balancing, only
        self._turns: dict[str, Callable[[], Serving | None]] = {}
        self._keyed: dict[str, Callable[[str], Serving | None]] = {}
        self._choosers: dict[str, Chooser] = {}
        """Also those of before a change: the next one may go on with what they counted."""

    def __repr__(self) -> str:
        return f"<Balanced {self._balancing}, {self._only}: {', '.join(self._turns) or 'not asked yet'}>"

    def resolve(self, service: str, key: str | None = None) -> Serving | None:
        """One that serves; `key` where the balancing goes by one. None: no instance serves, as far as is
        known here.

        Raises:
            InvalidInput: the balancing goes by key and there is none.
        """
        try:
            if key is None:
                return self._turns[service]()
            return self._keyed[service](key)
        except KeyError:
            chooser = self._chooser(service)
        return chooser.turn() if key is None else chooser.by_key(key)

    @contextlib.contextmanager
    def calling(self, service: str, key: str | None = None) -> Iterator[Serving]:
        """Around one call: chooses, counts it as under way, and says how it ended (an exception: it failed).

        Raises:
            Unavailable: no instance serves.
        """
        found = self.resolve(service, key)
        if found is None:
            age_s = self._discovery.age_s()
            raise Unavailable(
                f'service "{service}": no instance serves; the store was last heard {age_s:.1f} s ago'
            )
        self.started(found)
        try:
            yield found
        except Exception:
            self.finished(found, ok=False)
            raise
        except BaseException:
            self.finished(found)
            raise
        self.finished(found, ok=True)

    def started(self, found: Serving) -> None:
        """A call of it begins."""
        with self._discovery.lock:
            chooser = self._choosers.get(found.registration.service)
            if chooser is not None:
                chooser.started(found)

    def finished(self, found: Serving, ok: bool | None = None) -> None:
        """It has ended; `ok` None: in a way that says nothing of the instance (it was cancelled)."""
        with self._discovery.lock:
            chooser = self._choosers.get(found.registration.service)
            if chooser is not None:
                chooser.finished(found)
        if ok is not None:
            self._discovery.called(found, ok)

    def forget(self, services: Iterable[str] | None) -> None:
        """Discovery says that these have changed."""
        for service in list(self._turns) if services is None else services:
            self._turns.pop(service, None)
            self._keyed.pop(service, None)

    def _chooser(self, service: str) -> Chooser:
        with self._discovery.lock:
            candidates = self._discovery.choose_among(service, self._only, self._choosers.get(service))
            chooser = self._balancing.chooser(candidates)
            if not candidates.members:
                self._choosers.pop(service, None)  # names that nobody serves are not collected
                return chooser
            self._choosers[service] = chooser
            self._turns[service] = self._guarded(chooser, chooser.turn)
            self._keyed[service] = self._guarded(chooser, chooser.by_key)
            return chooser

    def _guarded(self, chooser: Chooser, choose: Callable[P, Serving | None]) -> Callable[P, Serving | None]:
        if not chooser.several_steps:
            return choose
        lock = self._discovery.lock

        def guarded(*args: P.args, **kwargs: P.kwargs) -> Serving | None:
            with lock:
                return choose(*args, **kwargs)

        return guarded


class _Listener:
    def __init__(self, call: Call, services: frozenset[str]) -> None:
        self.call, self.services = call, services
        self.told: dict[str, tuple[Serving, ...]] = {}


def condition(of: Registration) -> str:
    return f"in maintenance: {of.maintenance}" if of.maintenance else of.health
