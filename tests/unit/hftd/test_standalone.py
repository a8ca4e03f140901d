"""`hftd NAME --config FILE`: the documented sections, checked, become the daemon's own settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.errors import InvalidInput
from hftd import catalogue, settings
from hftd.standalone import config as standalone

SAMPLES = Path(__file__).parents[3] / "inventory" / "lab" / "config"


@pytest.mark.parametrize(
    ("sample", "daemon"), [("strategy", "strategyd"), ("risk", "riskd"), ("orders", "omsd")]
)
def test_the_sample_files_are_good(sample: str, daemon: str) -> None:
    config, given = standalone.read(SAMPLES / f"{sample}.yml")
    assert standalone.settings_for(catalogue.kind_of(daemon), config, given, sample)


def test_limits_and_parameters_become_settings_and_explicit_endpoints_peers() -> None:
    config, given = standalone.read(SAMPLES / "strategy.yml")
    found = standalone.settings_for(settings.STRATEGYD, config, given, "strategy.yml")
    assert (found.strategy, found.max_position, found.requote_interval_s) == ("market_making", "1000", 0.5)
    peers = standalone.explicit_peers(settings.STRATEGYD, config, found)
    assert {service: (peer.socket, peer.endpoint) for service, peer in peers.items()} == {
        "bookd": ("tops", "ipc:///run/hft/bookd.tops"),
        "riskd": ("intents", "ipc:///run/hft/riskd.intents"),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "service: {name: a}\nconsul: {address: localhost:8500}\netcd: {endpoints: [a:1]}\n",
            ":2: consul: found localhost:8500, wanted consul or etcd, not both",
        ),
        (
            "service: {name: a}\nconsul:\n  address: localhost:8500\n  health_check_interval: often\n",
            ":4: consul.health_check_interval: found often, wanted an interval like 10s, from 50ms to 60m",
        ),
        ("service: {name: a}\nconsul: {address: nowhere}\n", ":2: consul.address: found nowhere, wanted "),
        ("service: {name: a}\nconsul: {address: '10.0.0.1:8500'}\n", "wanted the host's own agent"),
        ("service: {name: a}\nconsul: {address: localhost:8500, health_port: 70000}\n", "wanted 0 to 65535"),
        ("service: {name: a}\nconsul: {address: localhost:8500, service_id: a/b}\n", "none of them a slash"),
        ("service: {name: a}\nzeromq:\n  orders: {endpoit: x}\n", ":3: zeromq.orders.endpoit"),
        ("etcd: {endpoints: [a:1]}\n", "service: found nothing"),
        (
            "service: {name: a}\netcd:\n  endpoints: [a:1]\n  lease_ttl: 0\n",
            ":4: etcd.lease_ttl: found 0.0, wanted seconds, more than 0",
        ),
        ("service: {name: 3}\n", ":1: service.name: found 3, wanted a text"),
        ("- a\n", "wanted sections"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_field(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        standalone.read(path)
    assert said in str(refused.value) and refused.value.exit_code == 2


def test_an_unknown_daemon_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="auditd, bookd"):
        catalogue.kind_of("nosuchd")
