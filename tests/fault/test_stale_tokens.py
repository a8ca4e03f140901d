"""Fault: a leader that does not know that it is none sends on. Its token is refused at both receivers, and
nothing else is disturbed.

The old leader is played by bare DEALER sockets, so that nothing of our own code is between the old token and
the two receivers: no lease word, no phase, no client that would have known better.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zmq

from controlplane.floor import up
from controlplane.model import Token
from hftd.engine import reasons
from hftd.shm import pages
from hftd.wire import codec, orders
from tests.support import claims, floors

pytestmark = pytest.mark.timeout(300)
ANSWER_MS = 10_000
STRANGER = codec.ProcessOnWire("omsd-alpha-1", "0f1e2d3c-4b5a-4678-89ab-cdef01234567", 4711, 1)


@dataclass
class Stage:
    """A floor after a failover, with nobody trading: whatever moves is our doing."""

    floor: floors.Floor
    old: Token
    now: Token
    gateway: Token
    """execd's present token."""

    def socket(self, instance: str, name: str = "orders") -> str:
        return str(self.floor.instance(instance)["endpoints"][name])

    def only(self, service: str) -> str:
        (instance,) = self.floor.service(service)["instances"]
        return str(instance["id"])

    def refusals(self) -> int:
        return int(self.floor.status()["flow"]["stale_token_refusals"])

    def venue(self) -> Any:
        """Accounts as the venue has them, open orders as the order manager has them."""
        working = [
            row
            for row in self.floor.json("orders")
            if row["status"] in ("working", "partially_filled", "pending_new", "pending_cancel")
        ]
        return self.floor.ask("simd", "accounts"), working


def token_of(floor: floors.Floor, service: str) -> Token:
    """As the lease word of the present leader has it."""
    leader = floor.service(service)["leader"]
    with pages.LeasePage(floor.run_dir() / f"{leader}.lease") as lease:
        found = lease.read()
    return Token(found.incarnation, service, found.epoch)


def electable(floor: floors.Floor) -> bool:
    return bool(floor.json("failover", "omsd", "--reason", "stale tokens")["outcome"] == "succeeded")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    services = up.default_services("lab").read_text()
    begins, ends = services.index("  - name: strategy-mm"), services.index("  - name: riskd")
    quiet = Path(tmp_path_factory.mktemp("services")) / "services.yml"
    quiet.write_text(services[:begins] + services[ends:])
    with floors.floor() as floor:
        floor.trades()
        floor.up("--services", str(quiet))
        old = token_of(floor, "omsd")
        floors.wait_for("a failover", lambda: electable(floor), pause_s=0.5)
        floors.wait_for("healthy", floor.healthy)
        made = Stage(floor, old, token_of(floor, "omsd"), token_of(floor, "execd"))
        assert made.old.rank < made.now.rank and made.venue()[0], "it has traded, under an older epoch"
        floors.wait_for("a venue that stands still", lambda: not made.venue()[1] and floor.settled())
        yield made


LINK = b"omsd-alpha-1.4711"


def say(endpoint: str, message: orders.TowardsVenue) -> orders.ComingBack:
    """Send it over a link of our own and return the first answer."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IDENTITY, LINK)
        dealer.connect(endpoint)
        dealer.send(codec.encode(message))
        assert dealer.poll(ANSWER_MS), f"{endpoint}: no answer to {type(message).__name__}"
        return orders.decode_coming_back(dealer.recv())


def place(token: Token, gateway: Token | None = None) -> orders.Place:
    """One that would take and fill at once, were it let through."""
    wire, gateway_wire = codec.TokenOnWire.of(token), codec.TokenOnWire.of(gateway) if gateway else None
    approval = orders.Approval(1, wire, 1)
    number = time.time_ns()
    return orders.Place(
        codec.VERSION, 1, number, "omsd-alpha-1", wire, f"late-{number}", "strategy-mm", "spot", "BTCUSDT",
        orders.Side.BUY, orders.Kind.IOC,
        10**14, 10**6, 0, 0, f"omsd-{token.epoch}-{number}", approval, gateway_wire,
    )  # fmt: skip


def fence(stage: Stage, token: Token, gateway: Token | None = None) -> orders.Fence:
    """With a good MAC: what an old leader would send."""
    gateway_wire = codec.TokenOnWire.of(gateway) if gateway else None
    claim = orders.Fence(
        codec.VERSION, 1, time.time_ns(), "omsd-alpha-1", codec.TokenOnWire.of(token), STRANGER, gateway_wire
    )
    return claims.signed(claim, LINK, stage.floor.site_dir)


def test_execd_refuses_an_order_of_the_old_epoch(stage: Stage) -> None:
    counted, before, pids = stage.refusals(), stage.venue(), stage.floor.pids()
    answer = say(stage.socket(stage.only("execd")), place(stage.old))
    assert isinstance(answer, orders.Refusal) and answer.reason == reasons.STALE_TOKEN
    floors.wait_for("the refusal in the flow", lambda: stage.refusals() == counted + 1)
    assert stage.venue() == before and stage.floor.pids() == pids


@pytest.mark.parametrize("gateway", ["present", "none"])
def test_the_venue_refuses_an_order_of_the_old_epoch(stage: Stage, gateway: str) -> None:
    """Even past a gateway that would have let it through."""
    counted, before, pids = stage.refusals(), stage.venue(), stage.floor.pids()
    answer = say(
        stage.socket(stage.only("simd")), place(stage.old, stage.gateway if gateway == "present" else None)
    )
    assert isinstance(answer, orders.Refusal)
    if gateway == "present":
        assert answer.reason == reasons.STALE_TOKEN
        floors.wait_for("the refusal in the flow", lambda: stage.refusals() == counted + 1)
    assert stage.venue() == before and stage.floor.pids() == pids


def test_a_fence_with_an_old_token_is_refused_by_both(stage: Stage) -> None:
    for service, gateway in (("execd", None), ("simd", stage.gateway)):
        answer = say(stage.socket(stage.only(service)), fence(stage, stage.old, gateway))
        assert isinstance(answer, orders.Fenced) and not answer.ok and "below the fence" in answer.reason


def test_a_fence_with_the_present_token_of_another_claimant_is_refused_by_both(stage: Stage) -> None:
    """An epoch that a restored store gives out twice belongs to its first claimant (R10)."""
    for service, gateway in (("execd", None), ("simd", stage.gateway)):
        answer = say(stage.socket(stage.only(service)), fence(stage, stage.now, gateway))
        assert isinstance(answer, orders.Fenced) and not answer.ok and "first" in answer.reason


def test_the_leader_trades_on_under_its_epoch(stage: Stage) -> None:
    """Last in this file: what was refused has not cost the true leader its link or its lead."""
    floor, epoch = stage.floor, stage.now.epoch
    assert floor.service("omsd")["epoch"] == epoch and token_of(floor, "execd") == stage.gateway
    floor.up("--services", str(up.default_services("lab")))
    floors.wait_for(
        "orders of the present epoch",
        lambda: [row for row in floor.json("orders") if row["epoch"] == epoch],
        pause_s=0.3,
    )
    assert floor.service("omsd")["epoch"] == epoch
    floors.wait_for("positions equal to the venue's", floor.settled)
