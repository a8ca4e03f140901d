"""The venue's order desk on a real journal, for its tests: what it is sent, and every message it sent."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hftd.daemons.simd import journal, session
from hftd.engine import accounts
from hftd.engine.orders import claims
from hftd.storage import fences
from hftd.venues import binance, sim
from hftd.wire import codec, orders, requests
from hftd.wire.orders import Kind, OrderState, Side
from tests.support import store_tokens

MACS = claims.Macs(bytes(32))
EXECD, OTHER = b"execd-alpha-1", b"somebody"
UNIT = accounts.UNIT
BTC = requests.Instrument(0, "spot", "BTCUSDT", -8, -8, "spot")
COIN = requests.Instrument(1, "cm", "BTCUSD_PERP", -8, -8, "inverse")


def token(group: str, epoch: int) -> codec.TokenOnWire:
    return codec.TokenOnWire(1, group, epoch)


def claimant(name: str) -> codec.ProcessOnWire:
    return codec.ProcessOnWire(name, "6e2b1c1e-0000-4000-8000-000000000000", 1, 1)


def envelope(epoch: int | None) -> tuple[int, int, int, str, codec.TokenOnWire | None]:
    return (codec.VERSION, 1, 0, "omsd-alpha-1", None if epoch is None else token("omsd", epoch))


class Desk:
    """A venue with its session on a real journal, and every message it sent, decoded."""

    def __init__(self, folder: Path, *, gateway: bytes = b"") -> None:
        self.folder, self.journal = folder, journal.VenueJournal(folder)
        self.out: list[tuple[bytes, Any]] = []
        self.counts: dict[str, int] = {}
        self.connected = True
        ticks = itertools.count(1)
        self.venue = sim.Venue(
            [BTC, COIN],
            self.journal.accounts,
            self.journal.last_execution,
            "simd-alpha-1",
            lambda: next(ticks),
        )
        self.session = session.Session(
            self.venue,
            self.journal,
            fences.Fences(folder / "fences.json", store_tokens.highest),
            self._send,
            lambda link, fence: MACS.fits(fence, link),
            source="simd-alpha-1",
            gateway=gateway,
            count=self._count,
        )

    def _send(self, identity: bytes, frame: bytes) -> bool:
        if self.connected:
            self.out.append((identity, orders.decode_coming_back(frame)))
        return self.connected

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def tape(self, raw: bytes, instrument: int = 0) -> None:
        assert self.venue.line(instrument, 1, raw) == ""
        self.session.pump()

    def book(self, bid: int = 100, ask: int = 102, instrument: int = 0) -> None:
        self.tape(binance.snapshot(10, [(bid * UNIT, 5 * UNIT)], [(ask * UNIT, 5 * UNIT)]), instrument)

    def handle(self, message: orders.TowardsVenue, sender: bytes = EXECD) -> list[Any]:
        """What came back for this."""
        before = len(self.out)
        self.session.handle(sender, message)
        return [answer for _, answer in self.out[before:]]

    def fence(
        self,
        group: str,
        epoch: int,
        gateway: int | None = None,
        by: str = "",
        sender: bytes = EXECD,
        signed_for: bytes = b"",
    ) -> orders.Fenced:
        envelope = (codec.VERSION, 1, 0, "execd-alpha-1", token(group, epoch))
        beside = None if gateway is None else token("execd", gateway)
        fence = orders.Fence(*envelope, claimant(by or f"{group}-alpha-1"), beside)
        [answer] = self.handle(MACS.fence(fence, signed_for or sender), sender)
        return answer

    def fenced(self) -> Desk:
        assert self.fence("execd", 1).ok and self.fence("omsd", 1, gateway=1).ok
        return self

    def place(
        self,
        order_id: str,
        side: Side = Side.BUY,
        price: int = 100,
        quantity: int = UNIT,
        kind: Kind = Kind.LIMIT,
        **given: Any,
    ) -> list[Any]:
        return self.handle(a_place(order_id, side, price, quantity, kind, **given))

    def close(self) -> None:
        self.journal.close()


def a_place(
    order_id: str,
    side: Side = Side.BUY,
    price: int = 100,
    quantity: int = UNIT,
    kind: Kind = Kind.LIMIT,
    epoch: int | None = 1,
    gateway: int | None = 1,
    symbol: str = "BTCUSDT",
    market: str = "spot",
    replaced_id: str = "",
) -> orders.Place:
    return orders.Place(
        *envelope(epoch),
        client_order_id=f"c-{order_id}",
        strategy="strategy-mm",
        market=market,
        symbol=symbol,
        side=side,
        kind=kind,
        price=price * UNIT,
        quantity=quantity,
        origin_ns=0,
        origin_seq=0,
        order_id=order_id,
        gateway=None if gateway is None else token("execd", gateway),
        replaced_id=replaced_id,
    )


def a_cancel(order_id: str, epoch: int | None = 1, gateway: int | None = 1) -> orders.Cancel:
    gate = None if gateway is None else token("execd", gateway)
    return orders.Cancel(
        *envelope(epoch), f"c-{order_id}", "strategy-mm", "spot", "BTCUSDT", 0, order_id, gate
    )


def cancel_all(epoch: int | None = 1, gateway: int | None = 1) -> orders.CancelAll:
    return orders.CancelAll(*envelope(epoch), 9, None if gateway is None else token("execd", gateway))


def trade(price: int, quantity: int) -> bytes:
    """A seller meets the bids."""
    return binance.trade("BTCUSDT", 1, 1, price * UNIT, quantity, buyer_is_maker=True)


def told(answers: list[Any]) -> list[tuple[str, OrderState, int]]:
    return [(each.order_id, each.state, each.filled) for each in answers]
