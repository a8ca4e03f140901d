"""Host names of a store's endpoints: looked up beside the calls, and the last answer kept.

A name server that is away or hangs must not take the store with it: once a name was known, connections go to
the addresses that it had, and each new one asks again in the background. A look-up that hangs costs a thread
of its own, one for each name, and nobody waits for it longer than his own deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading


class Name:
    def __init__(self, host: str) -> None:
        self.host = host.strip("[]")
        self.error = ""
        """Of the last look-up; empty: it was answered."""
        self._known: list[str] = []
        self._lock = threading.Lock()
        self._asking = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        with contextlib.suppress(ValueError):
            self._known = [str(ipaddress.ip_address(self.host))]
        self.literal = bool(self._known)
        """It is an address already: nobody is asked."""

    def __repr__(self) -> str:
        return f"<Name {self.host}: {', '.join(self._known) or 'not known'}>"

    def known(self) -> list[str]:
        """The addresses that it had when it was last answered; asks again, and does not wait."""
        self.refresh()
        return list(self._known)

    async def addresses(self) -> list[str]:
        """Those that are known; of a name that never was, once it is. The caller bounds the wait.

        Raises:
            OSError: the name is not known, and never was.
        """
        if not self._known:
            loop = asyncio.get_running_loop()
            answered: asyncio.Future[None] = loop.create_future()
            with self._lock:
                self._waiting.append((loop, answered))
            self.refresh()
            await answered
            if not self._known:
                raise OSError(f'the name "{self.host}" is not known: {self.error}')
            return list(self._known)
        return self.known()

    def refresh(self) -> None:
        """Ask in the background, unless that is under way."""
        with self._lock:
            if self.literal or self._asking:
                return
            self._asking = True
        threading.Thread(target=self._look_up, name=f"look-up of {self.host}", daemon=True).start()

    def failed(self, address: str) -> None:
        """No connection came about there: the other addresses first, from now on."""
        with self._lock:
            if address in self._known and len(self._known) > 1:
                self._known = [each for each in self._known if each != address] + [address]

    def _look_up(self) -> None:
        found: list[str] = []
        error = ""
        try:
            rows = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
            found = list(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as exc:
            error = getattr(exc, "strerror", None) or str(exc)
        with self._lock:
            self.error = error
            if found and set(found) != set(self._known):
                self._known = found
            self._asking = False
            waiting, self._waiting = self._waiting, []
        for loop, answered in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(_tell, answered)


def _tell(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)
