"""One call to Consul: at the server that answered last, then at the others, each with a deadline of its own.

Promises: a server that hangs costs one try; a write of which it is not known whether it was applied is said
to be so and never sent twice; a token or certificate that was rotated is read again when the old one is
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from controlplane.errors import Denied, HftctlError, InvalidSettings, Unavailable
from controlplane.host import files
from controlplane.settings import StoreSettings
from controlplane.store.consul import errors
from controlplane.store.consul.http import Answer, Broken, Connection, Server
from controlplane.store.endpoint import on_this_machine, parse_endpoint
from controlplane.store.preference import Preference

T = TypeVar("T")
GOOD = frozenset({200, 404})
"""404 is an answer to most questions: no such key, no such session."""

INDEX = "x-consul-index"


def target(path: str, query: Mapping[str, str] | None = None) -> str:
    """`path` may have any key in it. A query's empty value is a flag (`?recurse`)."""
    flags = [name for name, value in (query or {}).items() if not value]
    pairs = {name: value for name, value in (query or {}).items() if value}
    asked = "&".join([*flags, *([urlencode(pairs)] if pairs else [])])
    return f"/v1/{quote(path)}" + (f"?{asked}" if asked else "")


def decoded(decoder: msgspec.json.Decoder[T], answer: Answer, what: str, *, writes: bool = False) -> T:
    """The body of a good answer. Raises Unavailable: it is not Consul's; a write may have been applied."""
    try:
        return decoder.decode(answer.body)
    except msgspec.DecodeError as exc:
        raise Unavailable(
            f"store consul: {what}: what answers is not Consul ({exc}); look at the address", ambiguous=writes
        ) from exc


def require_consul(server: Server, method: str, path: str, answer: Answer) -> None:
    """Consul says its index with every answer about keys, also where there are none. What another HTTP server
    calls "not found" must not pass for an empty site.

    Raises:
        Unavailable: this is no Consul; another endpoint may be one.
    """
    if method == "GET" and path.startswith("kv/") and INDEX not in answer.headers:
        raise Unavailable(
            f"store consul {server.address}: {method} {path}: HTTP {answer.status} without {INDEX}: what "
            "answers there is not Consul; look at the address"
        )


class Calls:
    """The servers (or agents) of one cluster, the one that answered last in front."""

    def __init__(self, endpoints: Sequence[str], settings: StoreSettings) -> None:
        addresses = list(dict.fromkeys(map(parse_endpoint, endpoints)))
        if not addresses:
            raise InvalidSettings("store: no endpoint; wanted at least one HOST:PORT or unix:/ABSOLUTE/PATH")
        for address in addresses:
            if settings.ca_file is None and not on_this_machine(address):
                raise InvalidSettings(
                    f'store endpoint "{address}": plain text to another machine, for anybody between to read '
                    "and change; wanted TLS (store.ca_file) and an identity (store.cert_file or "
                    "store.token_file)"
                )
        self.settings = settings
        self.closed = False
        self._tls_files: tuple[float, ...] = ()
        self._tls = self._context()
        self.servers = [Server(address, self._tls) for address in addresses]
        self._preference = Preference(len(self.servers))
        self._token = ""
        self._token_read = False
        self._open: set[Connection] = set()

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(server.address for server in self.servers)

    def preferred(self) -> Server:
        return self.servers[self._preference.first]

    def prefer_next(self, after: Server) -> None:
        self._preference.failed(self.servers.index(after))

    async def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        good: frozenset[int] = GOOD,
    ) -> Answer:
        """Ask one server after another until one gives a good answer.

        Raises:
            Unavailable: none did; ambiguous if this is a write that some server may have taken. Denied,
            TooLarge, InvalidInput, LeaseLost, Refused: Consul's own answer.
        """
        writes = method != "GET"
        error: HftctlError = Unavailable("store consul: no try was made")
        # Twice even with one server: the first try may only have found that the kept connection is dead.
        tries, refreshed = max(2, len(self.servers)), False
        while tries > 0:
            tries -= 1
            server = self.preferred()
            try:
                answer = await self.attempt(server, method, path, query, body)
                if answer.status in good:
                    require_consul(server, method, path, answer)
                    self._preference.answered(self.servers.index(server))
                    return answer
                raise self.error_of(server, method, path, answer)
            except Unavailable as exc:
                error = exc
                self.prefer_next(server)  # whoever reads what became of it asks another server first
                if exc.ambiguous and writes:
                    raise
            except Denied:
                if refreshed or not self.refresh_token():
                    raise
                refreshed, tries = True, tries + 1
        raise error

    async def attempt(
        self,
        server: Server,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """One try at one server. Raises Unavailable, with what was asked of whom."""
        what, writes = f"store consul {server.address}: {method} {path}", method != "GET"
        if self.closed:
            raise Unavailable(f"{what}: this client is closed")
        self._renew_tls(server)
        before_s = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.try_s):
                return await server.ask(method, target(path, query), self.token, body)
        except TimeoutError:
            server.drop()
            waited_s = time.monotonic() - before_s
            raise Unavailable(f"{what}: no answer in {waited_s:.2f} s", ambiguous=writes) from None
        except Broken as exc:
            server.drop()
            raise Unavailable(f"{what}: {exc}", ambiguous=writes and exc.ambiguous) from exc

    def error_of(self, server: Server, method: str, path: str, answer: Answer) -> HftctlError:
        what = f"store consul {server.address}: {method} {path}"
        verdict = errors.classify(answer.status, answer.text)
        return errors.translate(verdict, what, answer.status, answer.text, writes=method != "GET")

    # --- a connection of one's own, for a blocking query ----------------------------------------------------

    async def open(self, server: Server) -> Connection:
        """Raises Unavailable."""
        if self.closed:
            raise Unavailable(f"store consul {server.address}: this client is closed")
        self._renew_tls(server)
        try:
            async with asyncio.timeout(self.settings.try_s):
                connection = await server.open()
        except (Broken, TimeoutError) as exc:
            why = str(exc) or f"no connection in {self.settings.try_s} s"
            raise Unavailable(f"store consul {server.address}: {why}") from exc
        self._open.add(connection)
        return connection

    async def close_connection(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()
        await connection.wait_closed()

    # --- who we are -----------------------------------------------------------------------------------------

    @property
    def token(self) -> str:
        if not self._token_read:
            self.refresh_token()
        return self._token

    def refresh_token(self) -> bool:
        """Read the token's file again; True when it is another now. A file that is gone for a moment, while
        it is replaced, leaves the last one."""
        file, before, first = self.settings.token_file, self._token, not self._token_read
        if file is None:
            return False
        try:
            self._token = _one_line(file)
        except OSError as exc:
            if first:
                raise Denied(f"store token: {file} cannot be read: {exc.strerror}") from exc
            return False
        self._token_read = True
        return self._token != before

    def _renew_tls(self, server: Server) -> None:
        if self.settings.ca_file is None:
            return
        with contextlib.suppress(InvalidSettings):  # gone for a moment, while they are renewed
            fresh = self._context()
            if fresh is not None and fresh is not server.tls:
                server.drop()
                server.tls = fresh

    def _context(self) -> ssl.SSLContext | None:
        """The same one as long as its files are the same. Raises InvalidSettings naming the file."""
        settings = self.settings
        if settings.ca_file is None:
            return None
        named = [file for file in (settings.ca_file, settings.cert_file, settings.key_file) if file]
        try:
            stamps = tuple(stamp for file in named for stamp in (file.stat().st_mtime_ns, file.stat().st_ino))
            if stamps == self._tls_files:
                return self._tls
            for file in named:
                files.read_regular(file)  # OpenSSL would wait at a FIFO, and the loop with it
            context = ssl.create_default_context(cafile=str(settings.ca_file))
            if settings.cert_file is not None:
                context.load_cert_chain(settings.cert_file, settings.key_file)
        except ssl.SSLError as exc:
            raise InvalidSettings(
                f"store certificates: {' '.join(map(str, named))} are not PEM: {exc.reason}"
            ) from exc
        except OSError as exc:
            raise InvalidSettings(
                f"store certificates: {exc.filename or settings.ca_file} cannot be read: {exc.strerror}"
            ) from exc
        self._tls, self._tls_files = context, stamps
        return context

    async def close(self) -> None:
        self.closed = True
        for connection in list(self._open):
            await self.close_connection(connection)
        for server in self.servers:
            await server.close()


def _one_line(file: Path) -> str:
    return files.read_regular(file).decode(errors="replace").strip()
