"""Which secret is in force on a host: the store's, else the file's; and what is said of a damaged one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.site_secret import SiteSecret
from controlplane.errors import Unavailable
from controlplane.host import secret
from controlplane.site import nouns, view
from controlplane.store import Entry, Keys, Store
from controlplane.store.memory import Memory, MemoryStore
from tests.support import agents

KEYS = Keys("lab")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of a busy machine takes its time for each file that is synced."""
    monkeypatch.setattr("agents.site_secret.START_S", 30.0)


class Host:
    def __init__(self, folder: Path, store: Store) -> None:
        folder.mkdir()
        self.folder, self.store = folder, store
        self.events: list[tuple[str, dict[str, object]]] = []
        self.alarms: dict[str, str] = {}
        self.secret = SiteSecret(
            folder,
            store,
            KEYS,
            report=lambda kind, **fields: self.events.append((kind, fields)),
            alarm=self.alarms.__setitem__,
        )

    @property
    def file(self) -> bytes:
        return (self.folder / secret.NAME).read_bytes()

    async def stored(self) -> bytes | None:
        entry = await self.store.get(KEYS.secret)
        return entry.value if entry else None


def said(host: Host, secrets: Sequence[bytes]) -> None:
    """No secret is in what is said of one."""
    text = f"{host.events} {host.alarms} {host.secret!r}".encode()
    for one in secrets:
        assert one not in text and one.hex().encode() not in text and repr(one).encode() not in text


def test_the_first_host_puts_its_own_and_the_others_take_it(tmp_path: Path) -> None:
    async def case() -> None:
        memory = Memory()
        alpha, beta = (Host(tmp_path / name, MemoryStore(memory)) for name in ("alpha", "beta"))
        before = secret.read_or_make(beta.folder)
        await alpha.secret.at_start()
        await beta.secret.at_start()
        assert alpha.secret.agreed and beta.secret.agreed
        assert alpha.file == beta.file == await alpha.stored() != before
        assert (beta.folder / secret.NAME).stat().st_mode & 0o777 == 0o600
        assert [kind for kind, _ in alpha.events + beta.events] == ["secret.replaced"]
        assert alpha.alarms == beta.alarms == {"site.secret": ""}
        for host in (alpha, beta):
            said(host, [before, beta.file])

    asyncio.run(case())


def test_hosts_that_start_at_once_agree(tmp_path: Path) -> None:
    async def case() -> None:
        memory = Memory()
        hosts = [Host(tmp_path / str(n), MemoryStore(memory)) for n in range(5)]
        await asyncio.gather(*(host.secret.at_start() for host in hosts))
        assert len({host.file for host in hosts}) == 1 and all(host.secret.agreed for host in hosts)

    asyncio.run(case())


class Away(MemoryStore):
    away = True

    async def get(self, key: str) -> Entry | None:
        if self.away:
            raise Unavailable("away", ambiguous=False)
        return await super().get(key)


def test_while_the_store_is_away_the_local_one_is_in_force_and_agreed_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.site_secret.RETRY_S", 0.001)

    async def case() -> None:
        store = Away(Memory())
        host = Host(tmp_path / "alpha", store)
        await host.secret.at_start()
        assert not host.secret.agreed and not host.alarms
        local = secret.read_or_make(host.folder)
        store.away = False
        await store.put(KEYS.secret, b"t" * 32)
        agreeing = asyncio.create_task(host.secret.keep_agreeing())
        await agents.until(lambda: host.secret.agreed)
        (host.folder / secret.NAME).write_bytes(b"")
        await agents.until(lambda: host.file == b"t" * 32)  # damaged while it runs, healed from the store
        await agents.until(lambda: len(host.events) == 2)
        agreeing.cancel()
        assert host.file == b"t" * 32 != local
        event, healed = host.events
        assert "exactly 32" in str(healed[1]["before"])
        assert event[0] == "secret.replaced" and "until they restart" in str(event[1]["consequence"])

    asyncio.run(case())


@pytest.mark.parametrize("damage", [b"", b"x", b"s" * 31, b"s" * 33])
def test_a_damaged_file_is_healed_from_the_store_and_is_an_alarm_without_one(
    tmp_path: Path, damage: bytes
) -> None:
    async def case() -> None:
        host = Host(tmp_path / "alpha", MemoryStore(Memory()))
        (host.folder / secret.NAME).write_bytes(damage)
        (host.folder / secret.NAME).chmod(0o600)
        await host.secret.at_start()
        assert "site.key" in host.alarms["site.secret"] and "remove the file" in host.alarms["site.secret"]
        assert host.file == damage and await host.stored() is None and not host.secret.agreed
        await host.store.put(KEYS.secret, b"t" * 32)
        await host.secret.at_start()
        assert host.file == b"t" * 32 and host.alarms == {"site.secret": ""}
        assert "site.key" in str(host.events)

    asyncio.run(case())


@pytest.mark.parametrize("rubbish", [b"", b"x", b"s" * 31, b"s" * 5_000])
def test_a_record_that_is_no_secret_is_replaced_and_named(tmp_path: Path, rubbish: bytes) -> None:
    async def case() -> None:
        host = Host(tmp_path / "alpha", MemoryStore(Memory()))
        await host.store.put(KEYS.secret, rubbish)
        await host.secret.at_start()
        assert host.secret.agreed and await host.stored() == host.file
        assert host.events == [
            (
                "secret.record_damaged",
                {"key": "hft/lab/secret", "bytes": len(rubbish), "replaced_by": "this host's"},
            )
        ]

    asyncio.run(case())


def test_a_folder_that_takes_no_file_is_an_alarm(tmp_path: Path) -> None:
    async def case() -> None:
        host = Host(tmp_path / "alpha", MemoryStore(Memory()))
        (host.folder / secret.NAME).mkdir()
        await host.secret.at_start()
        assert "site.key" in host.alarms["site.secret"]

    asyncio.run(case())


@pytest.mark.parametrize("prefix", [None, "", "a/b"])
def test_no_watch_of_the_site_shows_it(prefix: str | None) -> None:
    from agents.keeper import shown

    keys = Keys("lab", prefix)
    for watched in (*nouns.watched(keys), *shown.prefixes(keys).values()):
        assert not keys.secret.startswith(watched)
    assert view.name(keys, keys.secret) is None
