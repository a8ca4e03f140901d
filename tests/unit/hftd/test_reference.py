"""What an instrument is comes from reference data, and what cannot be booked exactly is refused by name
before anything trades.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from controlplane.errors import InvalidInput
from controlplane.specs import read as specs_read
from hftd import settings
from hftd.engine import accounts, reasons
from hftd.venues import reference, replay, sim
from hftd.wire import orders, requests

INFO = {
    "spot": {"symbol": "BTCUSDT", "status": "TRADING"},
    "usdm": {"symbol": "BTCUSDT", "contractType": "PERPETUAL"},
    "cm": {"symbol": "BTCUSD_PERP", "contractType": "PERPETUAL", "contractSize": 100},
}


def exchange_info(path: Path, market: str, tick: str = "0.10", lot: str = "0.001") -> Path:
    filters = [
        {"filterType": "PRICE_FILTER", "tickSize": tick, "minPrice": "1"},
        {"filterType": "LOT_SIZE", "stepSize": lot},
        {"filterType": "NOTIONAL"},
    ]
    path.write_text(json.dumps({"timezone": "UTC", "symbols": [{**INFO[market], "filters": filters}]}))
    return path


def capture(folder: Path, market: str, symbol: str) -> Path:
    path = folder / market / f"{symbol.lower()}_20250303.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(b'1 {"lastUpdateId":1,"bids":[["100","1"]],"asks":[["101","1"]]}\n'))
    return path


@pytest.mark.parametrize(
    ("market", "symbol", "contract", "size"),
    [
        ("spot", "BTCUSDT", "spot", 1),
        ("usdm", "BTCUSDT", "linear", 1),
        ("cm", "BTCUSD_PERP", "inverse", 100),
    ],
)
def test_a_recorded_exchange_info_says_contract_size_tick_and_lot(
    tmp_path: Path, market: str, symbol: str, contract: str, size: int
) -> None:
    known = reference.recorded(exchange_info(tmp_path / "info.json", market))
    assert known == {(market, symbol): reference.Terms(contract, size * 10**8, 10**7, 10**5)}
    (one,) = replay.Tape([capture(tmp_path, market, symbol)], known).instruments
    assert one.contract == contract and bool(one.untradable) is (contract == "inverse")


def test_an_instrument_that_no_reference_data_names_is_refused_by_name(tmp_path: Path) -> None:
    known = reference.recorded(exchange_info(tmp_path / "info.json", "spot"))
    with pytest.raises(InvalidInput, match="spot:ETHUSDT is not among the 1 instruments"):
        replay.Tape([capture(tmp_path, "spot", "ETHUSDT")], known)


def test_reference_data_that_says_another_contract_than_the_folder_is_refused(tmp_path: Path) -> None:
    terms = settings.InstrumentTerms("spot", "BTCUSDT", "inverse", "0.1", "1", "100")
    with pytest.raises(InvalidInput, match="spot:BTCUSDT: the reference data says inverse, its folder spot"):
        replay.Tape([capture(tmp_path, "spot", "BTCUSDT")], reference.of([terms], []))


@pytest.mark.parametrize(
    ("tick", "lot", "size", "contract"),
    [
        ("0.01", "0.000001", "1", "spot"),
        ("0.001", "0.000001", "1", "inexact"),
        ("0.00000001", "1", "1", "spot"),
        ("0.00000001", "0.1", "1", "inexact"),
        ("0.01", "0.001", "10", "sized"),
    ],
)
def test_what_cannot_be_booked_exactly_only_feeds_books_from_the_start(
    tmp_path: Path, tick: str, lot: str, size: str, contract: str
) -> None:
    terms = settings.InstrumentTerms("spot", "BTCUSDT", "spot", tick, lot, size)
    tape = replay.Tape([capture(tmp_path, "spot", "BTCUSDT")], reference.of([terms], []))
    (one,) = tape.instruments
    assert one.contract == contract and bool(one.untradable) is (contract != "spot")
    assert requests.decode_instrument(requests.encode_instrument(one)) == one
    venue = sim.Venue(tape.instruments, accounts.Accounts(), 0, "simd", lambda: 0)
    for line in tape:
        assert isinstance(line, replay.Line) and not venue.line(line.instrument, line.receive_ns, line.raw)
    of = ("spot", "BTCUSDT", orders.Side.BUY, orders.Kind.LIMIT, 99 * 10**8, 10**8)
    venue.place(orders.Place(1, 0, 0, "s", None, "a", "s", *of, 0, 0, order_id="a"))
    said = [told.record for told in venue.told if isinstance(told.record, orders.Report)]
    assert [one.reason for one in said] == ["" if contract == "spot" else reasons.UNKNOWN_INSTRUMENT]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"symbols":[{"symbol":"X","filters":[]}]}', "\xff"])
def test_a_file_that_is_no_exchange_info_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "info.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"info\.json"):
        reference.recorded(path)
    with pytest.raises(InvalidInput, match=r"no\.json"):
        reference.recorded(tmp_path / "no.json")


def services(folder: Path, tape: Path) -> Path:
    path = folder / "services.yml"
    entry = {"name": "simd", "daemon": "simd", "mode": "singleton", "hosts": ["alpha"]}
    entry["settings"] = {"tape": [str(tape)]}  # type: ignore[assignment]
    path.write_text(json.dumps({"services": [entry]}))
    return path


def test_a_services_file_with_a_tape_in_an_unknown_folder_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    path = capture(tmp_path, "coinm", "BTCUSD_PERP")
    with pytest.raises(InvalidInput, match=r"service 'simd': .*btcusd_perp.*'coinm' is no market"):
        specs_read.read(services(tmp_path, path.parent))
    with pytest.raises(InvalidInput, match="'etc' is no market"):
        specs_read.read(services(tmp_path, Path("/etc/passwd")))
    (spec,) = specs_read.read(services(tmp_path, capture(tmp_path, "spot", "BTCUSDT")))
    assert msgspec.convert(spec.settings, settings.SimSettings).instruments == ()
